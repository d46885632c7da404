{{- define "jitney.labels" -}}
{{ include "jitney.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "jitney.selector" -}}
app.kubernetes.io/name: jitney-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Names of cluster-wide objects carry the namespace, so that two installations do not meet. */ -}}
{{- define "jitney.clusterName" -}}
jitney-operator-{{ .Release.Namespace }}
{{- end }}

{{- /* What the operator may do where models live. It reads no Secret, and writes to a ModelDeployment only its status. */ -}}
{{- define "jitney.rules" -}}
- apiGroups: [serving.jitney.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch]
- apiGroups: [serving.jitney.dev]
  resources: [modeldeployments/status]
  verbs: [get, patch]
# Owner references that block the owner's deletion need this, where the cluster checks them.
- apiGroups: [serving.jitney.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# Read only: which pods belong to the current revision, and why one does not start.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods, events]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
