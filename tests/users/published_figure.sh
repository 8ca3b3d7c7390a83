# Is a published table what its data say? Nothing is computed again but the table.
lofit init . --like laptop
lofit store take "$REPOSITORY/docs/results/laptop/nodes"
lofit render planted
diff results/laptop/tables/planted.csv "$REPOSITORY/docs/results/laptop/tables/planted.csv"
