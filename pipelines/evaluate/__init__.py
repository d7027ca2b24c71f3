"""The evaluate job: exactness, acceptance, memory and speed on prompt sets."""
