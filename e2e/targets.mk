# The throwaway Kubernetes of this machine; the Makefile includes this file.
.PHONY: cluster-up cluster-down images kubeconfig

cluster-up: setup ## start a throwaway Kubernetes on this machine (root; 10 s when built)
	@$(RUN)python -m cluster up

cluster-down: setup ## stop it and remove what it left
	@$(RUN)python -m cluster down

images: setup ## build operator and runtime images and give them to the cluster
	@$(RUN)python -m cluster images

kubeconfig: setup ## print only the path of the cluster's kubeconfig
	@$(RUN)python -m cluster kubeconfig
