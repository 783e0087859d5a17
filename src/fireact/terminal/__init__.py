"""What a person sees in the terminal: results on standard output, everything else on standard error."""
