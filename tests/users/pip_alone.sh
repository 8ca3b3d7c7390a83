# From a wheel, in an empty folder and a fresh environment: a study of your own, from the example.
lofit init mine --like own
cd mine
sed -i "s|^models: .*|$MODELS|" config.yaml
lofit plan
lofit expected
lofit run -n --profile grouped
lofit run --cores 2
lofit run -n
lofit status
lofit summary
