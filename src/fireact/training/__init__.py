"""Fine-tuning: recipes, masked batches, and TRL's trainer made fast where the student is frozen."""
