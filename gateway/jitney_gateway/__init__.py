"""The front door: launches chat models by Xinference's calls and leads requests to them, on one machine or in a cluster."""
