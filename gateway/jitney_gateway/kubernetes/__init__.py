"""Models as ModelDeployments: the cluster holds all state, so front doors may come and go, and what kubectl made is here too."""
