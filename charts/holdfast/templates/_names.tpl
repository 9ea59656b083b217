{{/* Names, labels and what is derived from values. Each is used in more than one place. */}}

{{- define "holdfast.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of objects: the release's, with the chart's where it does not say it already. At most 50, for suffixes. */}}
{{- define "holdfast.fullname" -}}
{{- $name := include "holdfast.name" . }}
{{- if .Values.fullnameOverride }}{{ $name = .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}{{ $name = .Release.Name }}
{{- else }}{{ $name = printf "%s-%s" .Release.Name $name }}
{{- end }}
{{- $name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "holdfast.namespace" -}}
{{ default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{/* Names of objects that no namespace sets apart. */}}
{{- define "holdfast.clusterName" -}}
{{- $name := include "holdfast.fullname" . }}
{{- $namespace := include "holdfast.namespace" . }}
{{- if or (eq $namespace $name) (eq $namespace (printf "%s-system" $name)) }}{{ $name }}
{{- else }}{{ printf "%s-%s" $namespace $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "holdfast.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "holdfast.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* What selectors choose pods by. It must never change. */}}
{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ include "holdfast.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "holdfast.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "holdfast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: holdfast
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of an object: a dict of in (the context), name, and, where there are any, namespace, labels, annotations. */}}
{{- define "holdfast.metadata" -}}
{{- $annotations := merge (dict) (default (dict) .annotations) (default (dict) .in.Values.commonAnnotations) -}}
name: {{ .name }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- include "holdfast.labels" .in | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "holdfast.image" -}}
{{- $image := .Values.image }}
{{- $registry := default .Values.global.imageRegistry $image.registry }}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{/* As JSON. */}}
{{- define "holdfast.pullSecrets" -}}
{{- $secrets := list }}
{{- range .Values.global.imagePullSecrets }}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- concat (default (list) .Values.imagePullSecrets) $secrets | uniq | toJson }}
{{- end }}

{{/* Seconds from SIGTERM to the end of the last tunnel, and for the process to end. */}}
{{- define "holdfast.gracePeriod" -}}
{{ with .Values.drain }}{{ add .delay .window .closeHandshake 20 }}{{ end }}
{{- end }}

{{/* Pods that a budget would count, as far as the chart knows. It cannot count a DaemonSet's. */}}
{{- define "holdfast.replicas" -}}
{{- if eq .Values.kind "DaemonSet" }}0
{{- else if .Values.autoscaling.enabled }}{{ .Values.autoscaling.minReplicas }}
{{- else if kindIs "invalid" .Values.replicas }}2
{{- else }}{{ .Values.replicas }}
{{- end }}
{{- end }}

{{/* Namespaces in which Secrets may be read, as JSON; "" stands for all. */}}
{{- define "holdfast.secretNamespaces" -}}
{{- $rights := .Values.rbac.secrets }}
{{- if eq $rights.scope "None" }}[]
{{- else if eq $rights.scope "Namespaces" }}{{ toJson $rights.namespaces }}
{{- else }}{{ toJson (default (list "") .Values.watchNamespaces) }}
{{- end }}
{{- end }}

{{/* Label matchers of this installation's series. */}}
{{- define "holdfast.series" -}}
{{ default (printf "job=\"%s/%s\"" (include "holdfast.namespace" .) (include "holdfast.fullname" .)) .Values.monitoring.rules.selector }}
{{- end }}

{{/* A quantity of memory in bytes; empty for what is no plain number with a common suffix. */}}
{{- define "holdfast.bytes" -}}
{{- $text := toString . }}
{{- $factors := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- if regexMatch "^[0-9]+(\\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$" $text }}
{{- $number := regexFind "^[0-9.]+" $text }}
{{- mulf (float64 $number) (get $factors (trimPrefix $number $text)) | floor | int64 }}
{{- end }}
{{- end }}
