"""When is a larger model worth it? Measured on the user's own texts, through the user's own
service.

inputs files to texts, queries, judgements, pairs and labels; every broken line by its number run
the service: what it will cost, every vector kept in a folder, latency and throughput quality tasks
with one score per query, pair or text; recall, nDCG, MRR, Spearman, V-measure, k-NN, agreement
slices where a larger model is measurably better, with the caution that many looks at the data need
rules the routing that the data supports, and what it would have done to these texts report all of
it as one dictionary; page draws it
"""
