"""Language models: in process, scripted, and fakes for tests."""
