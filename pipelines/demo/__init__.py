"""The demo: synthetic tasks, their tokenizer, and a small model that answers them."""
