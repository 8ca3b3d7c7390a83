# A table of your own: fit, compare, look at what went wrong, use the model.
lofit train --data reviews.csv --prompt 'Review: {text}
Mood:' --label mood --method lofit --method lora --model "$MODEL" --threads 1
CONFIG=$(ls results/train/plan/config-*.yaml)
lofit summary --configfile "$CONFIG"
lofit compare main --configfile "$CONFIG"
lofit show main lora reviews --only wrong --items 2 --configfile "$CONFIG"
lofit generate --run /lora- --prompt 'Review: It was grand.
Mood:' --tokens 3 --configfile "$CONFIG"
lofit export --run /lofit- --out exported --configfile "$CONFIG"
