"""Networks of environments: joined without root by switches of ours, or with root by bridges."""
