{{/*
Values that are right one by one and impossible together. All of them are said at once.
What the schema can tell is in values.schema.json.
*/}}
{{- define "holdfast.refusals" -}}
{{- $wrong := list }}
{{- /* A key with nothing but comments below it is null, and Helm then drops what the chart has there. */}}
{{- range .Files.Lines "files/required.txt" }}
{{- $value := $.Values }}
{{- range $key := splitList "." . }}
{{- if kindIs "map" $value }}
{{- $value = get $value $key }}
{{- end }}
{{- end }}
{{- if and . (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
{{- $wrong = append $wrong (printf "%s is null, which removes it; leave it out for what the chart has" .) }}
{{- end }}
{{- end }}
{{- if $wrong }}
{{- fail (printf "\n\nThese values cannot be:\n- %s\n" (join "\n- " $wrong)) }}
{{- end }}
{{- $daemon := eq .Values.kind "DaemonSet" }}
{{- if and $daemon .Values.autoscaling.enabled }}
{{- $wrong = append $wrong "autoscaling.enabled: a DaemonSet has one pod on each node, and nothing to scale; leave it off, or set kind to Deployment" }}
{{- end }}
{{- if and $daemon (not .Values.service.enabled) (not .Values.hostPorts.http) (not .Values.hostPorts.https) }}
{{- $wrong = append $wrong "service.enabled is false and hostPorts are null: nobody could connect; set one of them" }}
{{- end }}
{{- with .Values.hostPorts }}
{{- if and $daemon .http (eq (toString .http) (toString .https)) }}
{{- $wrong = append $wrong (printf "hostPorts.http and hostPorts.https are both %v; a node has each port once" .http) }}
{{- end }}
{{- end }}
{{- with .Values.service.ports }}
{{- if and $.Values.https.enabled (eq (toString .http) (toString .https)) }}
{{- $wrong = append $wrong (printf "service.ports.http and service.ports.https are both %v; choose two, or set https.enabled to false" .http) }}
{{- end }}
{{- end }}
{{- with .Values.ports }}
{{- if lt (list .http .https .admin | uniq | len) 3 }}
{{- $wrong = append $wrong "ports.http, ports.https and ports.admin must be three different ports" }}
{{- end }}
{{- end }}
{{- with .Values.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- $wrong = append $wrong (printf "autoscaling.minReplicas, %v, is more than maxReplicas, %v" .minReplicas .maxReplicas) }}
{{- end }}
{{- if and .enabled (not .targetCPUUtilizationPercentage) (not .targetMemoryUtilizationPercentage) (not .metrics) }}
{{- $wrong = append $wrong "autoscaling.enabled without anything to look at: set targetCPUUtilizationPercentage, targetMemoryUtilizationPercentage or metrics" }}
{{- end }}
{{- end }}
{{- if not .Values.https.enabled }}
{{- if .Values.https.redirect }}
{{- $wrong = append $wrong "https.redirect: there is nowhere to send clients to; set https.enabled to true" }}
{{- end }}
{{- if .Values.https.defaultCertificate }}
{{- $wrong = append $wrong "https.defaultCertificate: nobody is shown it; set https.enabled to true" }}
{{- end }}
{{- end }}
{{- $secrets := .Values.rbac.secrets }}
{{- if and (eq $secrets.scope "Namespaces") (not $secrets.namespaces) }}
{{- $wrong = append $wrong "rbac.secrets.scope is Namespaces, and rbac.secrets.namespaces names none; name them, or set scope to None" }}
{{- end }}
{{- if and (ne $secrets.scope "Namespaces") $secrets.namespaces }}
{{- $wrong = append $wrong (printf "rbac.secrets.namespaces has no meaning while rbac.secrets.scope is %s; set scope to Namespaces" $secrets.scope) }}
{{- end }}
{{- if eq $secrets.scope "Namespaces" }}
{{- range $secrets.namespaces }}
{{- if not (has . (default (list) $.Values.watchNamespaces)) }}
{{- $wrong = append $wrong (printf "rbac.secrets.namespaces has %s, where no routes are looked at; add it to watchNamespaces. Without watchNamespaces Secrets are read in the whole cluster or nowhere" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.https.defaultCertificate }}
{{- $namespaces := include "holdfast.secretNamespaces" $ | fromJsonArray }}
{{- if not (or (has "" $namespaces) (has (splitList "/" . | first) $namespaces)) }}
{{- $wrong = append $wrong (printf "https.defaultCertificate is %s, and rbac.secrets and watchNamespaces let no Secret of that namespace be read" .) }}
{{- end }}
{{- end }}
{{- $own := dict
    "http" "ports.http"
    "https" "https.enabled"
    "admin" "ports.admin"
    "class" "class"
    "watch-namespace" "watchNamespaces"
    "host-ownership" "hostOwnership"
    "defaults" "defaults"
    "https-redirect" "https.redirect"
    "default-certificate" "https.defaultCertificate"
    "ticket-secret" "https.sharedTickets"
    "trusted-proxies" "trustedProxies"
    "proxy-protocol" "proxyProtocol"
    "drain-delay" "drain.delay"
    "drain-window" "drain.window"
    "grace-period" "drain"
    "log-format" "log.format"
    "log-level" "log.level"
    "access-log" "log.access"
}}
{{- range .Values.extraArgs }}
{{- $flag := regexReplaceAll "^--([a-z-]+).*$" . "${1}" }}
{{- if hasKey $own $flag }}
{{- $wrong = append $wrong (printf "extraArgs has --%s, which the chart sets; use %s" $flag (get $own $flag)) }}
{{- end }}
{{- if has $flag (list "manifests" "to" "kubeconfig" "context") }}
{{- $wrong = append $wrong (printf "extraArgs has --%s; the chart installs what serves the cluster that it runs in" $flag) }}
{{- end }}
{{- end }}
{{- $own = dict
    "containers" "extraContainers"
    "volumes" "extraVolumes"
    "serviceAccountName" "serviceAccount.name"
    "automountServiceAccountToken" "serviceAccount"
    "terminationGracePeriodSeconds" "drain"
    "enableServiceLinks" "extraEnv"
    "imagePullSecrets" "imagePullSecrets"
    "priorityClassName" "priorityClassName"
    "runtimeClassName" "runtimeClassName"
    "nodeSelector" "nodeSelector"
    "affinity" "affinity"
    "tolerations" "tolerations"
    "topologySpreadConstraints" "topologySpreadConstraints"
    "securityContext" "podSecurityContext and sysctls"
}}
{{- range $key, $_ := .Values.extraPodSpec }}
{{- with get $own $key }}
{{- $wrong = append $wrong (printf "extraPodSpec has %s, which the chart sets; use %s" $key .) }}
{{- end }}
{{- end }}
{{- range $key, $_ := .Values.service.extraSpec }}
{{- if or (has $key (list "selector" "ports")) (hasKey $.Values.service $key) }}
{{- $wrong = append $wrong (printf "service.extraSpec has %s, which the chart sets" $key) }}
{{- end }}
{{- end }}
{{- with $wrong }}
{{- fail (printf "\n\nThese values cannot be:\n- %s\n" (join "\n- " .)) }}
{{- end }}
{{- end }}
