"""Programs that join machines: each a small process of its own, which outlives the agent."""
