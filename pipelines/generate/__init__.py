"""The generate job: rooms in the order of a row's way, and `build.py`, which makes a Ray dataset of them.

`pipelines.read` cuts files into units; `prompt` renders them; `decode` completes them with `engine` and
`audit`; `write` commits them; `ledger` knows what is done. Around these: `config` and `job` before a run,
`watch` during it, `report` after it.
"""
