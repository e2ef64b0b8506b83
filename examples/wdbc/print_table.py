"""What a curious program would do: print the whole table into its log."""

import sys

import hortus

for table in sorted(hortus.inputs.only().rglob("*.csv")):
    sys.stdout.write(table.read_text())
