"""Search: datasets and jobs found by words, filtered inside the query; only an index, rebuildable from the topics."""
