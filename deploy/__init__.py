"""How the app runs on more than one machine: with Ray Serve, or on Kubernetes."""
