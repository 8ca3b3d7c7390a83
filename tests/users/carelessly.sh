# Mistakes: each is told in lines that say where and what to do, all of a file at once, and nothing is written.
wrong() { ! "$@" 2> said || exit 1; cat said; ! grep -q Traceback said; }
lofit init .
sed -i 's/smollm2-135m/smolm2-135m/; s/^seeds: .*/seeds: forty-two/; s/^methods:/mehtods: {}\nmethods:\n  loffit:/' config.yaml
wrong lofit run
test "$(wc -l < said)" -ge 2
wrong lofit plan --configfile nowhere.yaml
wrong lofit export --run nothing --out exported --configfile "$REPOSITORY/config.yaml"
wrong lofit show main lofti mquake --configfile "$REPOSITORY/config.yaml"
wrong lofit train --data reviews.csv --prompt '{txt}' --label mood --method lofit --model "$MODEL"
wrong lofit init .
test ! -e results && test ! -e resources
