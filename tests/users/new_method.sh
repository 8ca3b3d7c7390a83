# A method of your own, compared with the others without touching the package.
lofit init . --like own
lofit new method nudge
sed -i "s|^models: .*|$MODELS\nplugins: [plugins]|; s|^methods:|methods:\n  nudge: {heads: {k: [3]}}|" config.yaml
lofit plan --method nudge
lofit run --method nudge --method base --cores 2
lofit summary
