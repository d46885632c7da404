module jitney.dev/e2e/pause

go 1.26
