"""Parts of `make gpu` and `bench gpu`: each measures one thing in a process of its own (runner.py) and says it in rows (record.py)."""
