{{/* Binds a role to our ServiceAccount: a list of the context, the role's kind, name and namespace ("" for a ClusterRole), and the account. */}}
{{- define "holdfast.binding" -}}
{{- $context := index . 0 -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ index . 1 }}Binding
metadata:
  {{- include "holdfast.metadata" (dict "in" $context "name" (index . 2) "namespace" (index . 3)) | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ index . 1 }}
  name: {{ index . 2 }}
subjects:
- kind: ServiceAccount
  name: {{ index . 4 }}
  namespace: {{ include "holdfast.namespace" $context }}
{{- end }}
