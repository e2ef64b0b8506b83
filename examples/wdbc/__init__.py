"""One study on real data: the Wisconsin diagnostic breast-cancer table, from the first sign-in to the audit."""
