{{- define "jitney.name" -}}
{{- default "jitney-operator" .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Release "jitney" gives "jitney-operator", any other "RELEASE-jitney-operator". */}}
{{- define "jitney.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if eq .Release.Name "jitney" }}
{{- include "jitney.name" . }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "jitney.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "jitney.selectorLabels" -}}
app.kubernetes.io/name: {{ include "jitney.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "jitney.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "jitney.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: jitney
{{- end }}

{{- define "jitney.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "jitney.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The operator's configuration: the values', and where the front door of this chart wakes models. */}}
{{- define "jitney.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if and .Values.gateway.enabled (gt (int .Values.gateway.replicas) 0) }}
{{- $own := prepend .Values.gateway.namespaces (include "jitney.gateway.namespace" .) }}
{{- $_ := set $config "wakeNamespaces" (concat (default list $config.wakeNamespaces) $own | uniq) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* What the operator may do where ModelDeployments live. The head of operator/jitney_operator/cluster.py says which call needs which. */}}
{{- define "jitney.rules" -}}
- apiGroups: [serving.jitney.dev]
  resources: [modeldeployments]
  verbs: [list, watch]
- apiGroups: [serving.jitney.dev]
  resources: [modeldeployments/status]
  verbs: [patch]
# Children are owned with blockOwnerDeletion, which asks for this.
- apiGroups: [serving.jitney.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# Who scales a resource that could scale itself: an HPA, or KEDA, which takes its HPA away while it pauses.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list, watch]
# Why a pod is not made is told in its Events only.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end }}
