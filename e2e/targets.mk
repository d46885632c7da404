# The throwaway Kubernetes of this machine, and what is shown and tested on it; the Makefile includes this file.
.PHONY: prerequisites cluster-up cluster-down images kubeconfig demo demo-down e2e chart-crd

# Before anything is downloaded or built: what only a person can give, missing in one sentence.
prerequisites:
	@python3 -m cluster.machine

cluster-up: prerequisites setup ## start a throwaway Kubernetes on this machine, with our images in it (needs root)
	@$(RUN)python -m cluster up

cluster-down: setup ## stop it and see that nothing of it is left; built images stay cached
	@$(RUN)python -m cluster down

images: prerequisites setup ## build the images that changed, give them to the cluster, print their names
	@$(RUN)python -m cluster images

kubeconfig: setup ## print only the path of the cluster's kubeconfig
	@$(RUN)python -m cluster kubeconfig

demo: prerequisites setup ## the main job from nothing: cluster, images, chart, a model, 16 chats at once
	@$(RUN)python e2e/demo.py

demo-down: cluster-down ## stop the demo's cluster and see that nothing of it is left

e2e: prerequisites setup ## the cluster suite
	@$(RUN)pytest -v -s e2e/tests

chart-crd: ## copy the resource's definition into the chart
	@cp crds/serving.jitney.dev_modeldeployments.yaml charts/jitney/files/
