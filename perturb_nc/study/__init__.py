"""Theory beside measurement: both are ClassStatistics here."""
