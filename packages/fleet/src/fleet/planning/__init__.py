"""Stories and plans, their states and human gates; publishes what was approved."""
