"""Many workers with one truth: a coordinator, which holds the ledger and writes to the index, and workers anywhere that
parse and embed documents. They meet at a place: a folder, or a prefix in a bucket.

The coordinator runs an ordinary flow (`engine.flow`) of which the middle is elsewhere: its scan compares the source
with the ledger, what is new or changed goes into *shards*, and what workers make of them comes back in *parts* and
takes the same way as points that were embedded beside it. So there is one ledger, and deletions, moves, failures and
kills are what they are in any run.

    scan ─► dispatch ··· shards ···► worker: prepare ─► embed ─► parts ··· collect ─► write ─► commit
"""
