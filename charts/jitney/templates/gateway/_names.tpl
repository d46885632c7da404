{{- define "jitney.gateway.fullname" -}}
{{- if eq .Release.Name "jitney" }}jitney-gateway{{ else }}{{ printf "%s-jitney-gateway" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "jitney.gateway.selectorLabels" -}}
app.kubernetes.io/name: jitney-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "jitney.gateway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "jitney.gateway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: jitney
{{- end }}

{{/* Where launches go. */}}
{{- define "jitney.gateway.namespace" -}}
{{- default .Release.Namespace .Values.gateway.namespace }}
{{- end }}

{{/* What it may do where it serves models. The head of gateway/jitney_gateway/kubernetes/cluster.py says which call needs which. */}}
{{- define "jitney.gateway.rules" -}}
# Patched is an annotation, which has a model woken that scales with its load.
- apiGroups: [serving.jitney.dev]
  resources: [modeldeployments]
  verbs: [list, watch, patch]
# To wake a model that has no replica.
- apiGroups: [serving.jitney.dev]
  resources: [modeldeployments/scale]
  verbs: [get, patch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- end }}
