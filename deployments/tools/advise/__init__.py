"""When is a larger model worth it? Measured on the user's own texts and through their service.

inputs      files to texts, queries, judgements, pairs and labels; broken lines by number
run         the service: what a run will cost, and every vector kept in a folder
latency     latency and throughput
quality     tasks with one score per query, pair or text; recall, nDCG, MRR, Spearman,
            V-measure, k-NN, agreement
slices      where a larger model is measurably better, corrected for many comparisons
rules       the routing that the data supports
traffic     what that routing would have done to these texts
report      all of it as one dictionary; page draws it
"""
