{{/* The pods, of the Deployment or the DaemonSet. */}}
{{- define "holdfast.pod" -}}
metadata:
  labels:
    {{- /* Neither version nor chart: a new chart that changes nothing else must not replace the pods. */}}
    {{- include "holdfast.selector" . | nindent 4 }}
    {{- with omit (default (dict) .Values.podLabels) "app.kubernetes.io/name" "app.kubernetes.io/instance" }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "holdfast.serviceAccount" . }}
  automountServiceAccountToken: true
  {{- with include "holdfast.pullSecrets" . | fromJsonArray }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  enableServiceLinks: false # they would be HOLDFAST_... variables that mean nothing
  # drain.delay, drain.window, drain.closeHandshake, and 20 s for the process to end
  terminationGracePeriodSeconds: {{ include "holdfast.gracePeriod" . }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if kindIs "slice" .Values.topologySpreadConstraints }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- else if eq .Values.kind "Deployment" }}
  topologySpreadConstraints:
  - topologyKey: kubernetes.io/hostname
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway # two replicas on one node are better than one
    labelSelector:
      matchLabels:
        {{- include "holdfast.selector" . | nindent 8 }}
    matchLabelKeys: [pod-template-hash] # in a rollout, only new replicas count
  {{- end }}
  {{- $security := default (dict) .Values.podSecurityContext }}
  {{- with .Values.sysctls }}
  {{- $security = merge (dict "sysctls" .) $security }}
  {{- end }}
  {{- with $security }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.extraPodSpec }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  containers:
  - name: holdfast
    image: {{ include "holdfast.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    args:
    {{- include "holdfast.args" . | trim | nindent 4 }}
    env:
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}} # this replica, in its Lease and in records
    - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}} # where the Leases are
    - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}} # a replica's Lease goes with its pod
    {{- if and .Values.https.enabled .Values.https.sharedTickets }}
    - {name: HOLDFAST_TICKET_SECRET, value: {{ include "holdfast.namespace" . }}/{{ include "holdfast.fullname" . }}-tickets} # keys that replicas share
    {{- end }}
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    ports:
    {{- $host := eq .Values.kind "DaemonSet" | ternary .Values.hostPorts (dict) }}
    - {name: http, containerPort: {{ .Values.ports.http }}{{ with $host.http }}, hostPort: {{ . }}{{ end }}}
    {{- if .Values.https.enabled }}
    - {name: https, containerPort: {{ .Values.ports.https }}{{ with $host.https }}, hostPort: {{ . }}{{ end }}}
    {{- end }}
    - {name: admin, containerPort: {{ .Values.ports.admin }}}
    startupProbe:
      httpGet: {path: /livez, port: admin} # not /readyz: with the API server away a restart would not help
      {{- with .Values.startupProbe }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    readinessProbe:
      httpGet: {path: /readyz, port: admin} # once true it stays so until the drain, whatever the API server does
      {{- with .Values.readinessProbe }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    livenessProbe:
      httpGet: {path: /livez, port: admin} # a restart ends every tunnel
      {{- with .Values.livenessProbe }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with .Values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.securityContext }}
    securityContext:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    volumeMounts:
    - {name: defaults, mountPath: /etc/holdfast/defaults, readOnly: true}
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  volumes:
  # A folder, and no subPath: so that edits arrive without a rollout.
  - {name: defaults, configMap: {name: {{ include "holdfast.fullname" . }}-defaults}}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Only what differs from the program's own defaults, so that a patch may add a flag. A test holds that they are the same. */}}
{{- define "holdfast.args" -}}
{{- with .Values.ports.http }}{{ if ne (int .) 8080 }}
- --http=[::]:{{ . }}
{{- end }}{{ end }}
{{- if .Values.https.enabled }}
- --https=[::]:{{ .Values.ports.https }} # for hosts whose routes name a certificate
{{- if .Values.https.redirect }}
- --https-redirect
{{- end }}
{{- with .Values.https.defaultCertificate }}
- --default-certificate={{ . }}
{{- end }}
{{- end }}
{{- with .Values.ports.admin }}{{ if ne (int .) 9477 }}
- --admin=[::]:{{ . }}
{{- end }}{{ end }}
{{- if ne .Values.class "holdfast" }}
- --class={{ .Values.class }}
{{- end }}
{{- range .Values.watchNamespaces }}
- --watch-namespace={{ . }}
{{- end }}
{{- if ne .Values.hostOwnership "namespace" }}
- --host-ownership={{ .Values.hostOwnership }}
{{- end }}
- --defaults=/etc/holdfast/defaults/defaults.yaml # followed: an edit of the ConfigMap needs no rollout
{{- range .Values.trustedProxies }}
- --trusted-proxies={{ . }}
{{- end }}
{{- if .Values.proxyProtocol }}
- --proxy-protocol
{{- end }}
{{- if ne (int .Values.drain.delay) 15 }}
- --drain-delay={{ .Values.drain.delay }}s
{{- end }}
{{- if ne (int .Values.drain.window) 240 }}
- --drain-window={{ .Values.drain.window }}s
{{- end }}
- --grace-period={{ include "holdfast.gracePeriod" . }}s # the period above: too short for the drain is refused at start
{{- if ne .Values.log.format "text" }}
- --log-format={{ .Values.log.format }}
{{- end }}
{{- if ne .Values.log.level "info" }}
- --log-level={{ .Values.log.level }}
{{- end }}
{{- if not .Values.log.access }}
- --access-log=off
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}
