"""The generate job, in the order of a row's way: shards, ledger, source, prompts, actor, sink, report."""
