"""What several tests need: real files and small fakes."""
