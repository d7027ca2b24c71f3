"""What a config is: sections, their faults, and the options that all jobs share."""
