"""A checked job: what is known before an actor starts."""
