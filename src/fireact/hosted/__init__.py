"""Fine-tuning at a provider: one small interface, the providers, and the verb that follows a job to its model."""
