"""Many runs from one command: which jobs it means, which of them are done, and one job's life among the others."""
