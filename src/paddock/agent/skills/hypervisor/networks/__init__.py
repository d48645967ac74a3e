"""Networks of environments: without root by switches of ours, or with root by bridges."""
