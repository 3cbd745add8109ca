"""What lives as long as one sampling run."""
