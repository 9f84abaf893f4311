{{- define "pathloom.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "pathloom.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "pathloom.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "pathloom.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "pathloom.selector" -}}
app.kubernetes.io/name: {{ include "pathloom.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pathloom.labels" -}}
{{ include "pathloom.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "pathloom.account" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "pathloom.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "pathloom.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag }}
{{- printf "%s:%s%s" .Values.image.repository $tag (ternary .Values.gpu.imageSuffix "" .Values.gpu.enabled) }}
{{- end }}

{{/* Whether the next pod takes the sockets over: only where both are in one network. */}}
{{- define "pathloom.handover" -}}
{{- if and .Values.hostNetwork .Values.handover.enabled }}true{{ end }}
{{- end }}

{{/* Whether pods are captured that want it, and followed by a container of their own. */}}
{{- define "pathloom.follow" -}}
{{- if and .Values.capture.enabled (eq .Values.capture.pods "annotated") }}
{{- if not .Values.hostNetwork }}
{{- fail "`capture.pods: annotated` needs `hostNetwork: true`: what pods open is seen in the node's network alone" }}
{{- end }}
{{- if not .Values.rbac.create }}
{{- fail "`capture.pods: annotated` needs `rbac.create: true`: it lists and watches pods and namespaces" }}
{{- end }}
{{- $taken := false }}
{{- range .Values.config.workloads }}
{{- if has (get . "capture") (list "tproxy" "inbound") }}{{ $taken = true }}{{ end }}
{{- end }}
{{- if not $taken }}
{{- fail "`capture.pods: annotated` takes nothing: write `capture: tproxy` at one of `config.workloads`" }}
{{- end }}
{{- "true" }}
{{- end }}
{{- end }}

{{/* Where the agent's socket lies in the pod. */}}
{{- define "pathloom.spire" -}}
/spiffe-workload-api
{{- end }}

{{/* The UDP port of gossip, by the chart's own `mesh` or by what `config.mesh` says; nothing where there is none. */}}
{{- define "pathloom.gossip" -}}
{{- $mesh := default (dict) .Values.config.mesh }}
{{- if .Values.mesh.enabled }}
{{- if empty (get (default (dict) (get $mesh "nats")) "servers") }}{{ .Values.mesh.port }}{{ end }}
{{- else }}
{{- regexFind "[0-9]+$" (default "" (get $mesh "listen")) }}
{{- end }}
{{- end }}

{{/* Where the key of the mesh lies in the pod. */}}
{{- define "pathloom.meshKeys" -}}
/etc/pathloom-mesh
{{- end }}

{{/* The configuration: what the chart knows, and over it what the operator says. */}}
{{- define "pathloom.config" -}}
{{- $routes := get (default (dict) .Values.config.gateway_api) "enabled" }}
{{- range $section := list "workloads" "clusters" }}
{{- if not (or (index $.Values.config $section) (and $routes (eq $section "clusters"))) }}
{{- fail (printf "the value `config.%s` is empty: write the proxies' configuration there, as proxy-config/quickstart.yaml has it" $section) }}
{{- end }}
{{- end }}
{{- $process := dict "drain" (printf "%ds" (sub (int .Values.terminationGracePeriodSeconds) 5)) }}
{{- if include "pathloom.handover" . }}
{{- $_ := set $process "handover" (printf "%s/handover.sock" .Values.handover.folder) }}
{{- end }}
{{- $base := dict "node" (dict "name" "${NODE_NAME}" "zone" "${NODE_ZONE:-}") "process" $process }}
{{- if .Values.metrics.enabled }}
{{- $_ := set $base "admin" (dict "metrics" (printf "%s:%d" .Values.metrics.address (int .Values.metrics.port))) }}
{{- end }}
{{- if include "pathloom.follow" . }}
{{- $_ := set $base "capture" (dict "pods" "annotated") }}
{{- end }}
{{- $pods := get (default (dict) .Values.config.capture) "pods" }}
{{- if and $pods (ne $pods (ternary .Values.capture.pods "all" .Values.capture.enabled)) }}
{{- fail "`config.capture.pods` is what `capture.pods` says, where `capture.enabled` is true: leave it out, and write that" }}
{{- end }}
{{- if .Values.gpu.enabled }}
{{- $_ := set $base "model" (dict "device" "cuda") }}
{{- end }}
{{- if .Values.spire.enabled }}
{{- range $key := list "certificate" "key" "bundle" }}
{{- if hasKey (default (dict) $.Values.config.identity) $key }}
{{- fail (printf "`spire.enabled` and `config.identity.%s` both say where the identity comes from: leave one out" $key) }}
{{- end }}
{{- end }}
{{- $_ := set $base "identity" (dict "workload_api" (printf "unix://%s/%s" (include "pathloom.spire" .) .Values.spire.socket)) }}
{{- end }}
{{- if .Values.mesh.enabled }}
{{- range $key, $value := dict "listen" "`mesh.address` and `mesh.port`" "key" "`mesh.secret`" }}
{{- if hasKey (default (dict) $.Values.config.mesh) $key }}
{{- fail (printf "`config.mesh.%s` is what %s say, where `mesh.enabled` is true: leave it out, and write that" $key $value) }}
{{- end }}
{{- end }}
{{- $mesh := dict "key" (printf "%s/key" (include "pathloom.meshKeys" .)) }}
{{- with include "pathloom.gossip" . }}
{{- $wide := contains ":" $.Values.mesh.address }}
{{- $_ := set $mesh "listen" (printf "%s:%s" $.Values.mesh.address .) }}
{{- $_ := set $mesh "advertise" (printf (ternary "[${POD_IP}]:%s" "${POD_IP}:%s" $wide) .) }}
{{- /* In the pods' own namespace, whichever it is. */}}
{{- $_ := set $mesh "seeds" (list (printf "%s-mesh:%s" (include "pathloom.fullname" $) .)) }}
{{- end }}
{{- $_ := set $base "mesh" $mesh }}
{{- end }}
{{- if and $routes .Values.rbac.create .Values.rbac.namespaces }}
{{- /* It may look nowhere else. */}}
{{- $_ := set $base "gateway_api" (dict "namespaces" .Values.rbac.namespaces) }}
{{- end }}
{{- $said := deepCopy .Values.config }}
{{- if kindIs "string" (get $said "admin") }}
{{- $said = omit $said "admin" | merge (ternary (dict) (dict "admin" (dict "listen" $said.admin)) (empty $said.admin)) }}
{{- end }}
{{- toYaml (mergeOverwrite $base $said) }}
{{- end }}

{{/* What the configuration is filled in with. */}}
{{- define "pathloom.env" -}}
- name: NODE_NAME
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
- name: NODE_IP
  valueFrom: { fieldRef: { fieldPath: status.hostIP } }
- name: POD_IP
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
# Kubernetes 1.35 and newer give a pod its node's zone as a label; elsewhere it is empty, and `config.node.zone` can say it.
- name: NODE_ZONE
  valueFrom: { fieldRef: { fieldPath: "metadata.labels['topology.kubernetes.io/zone']" } }
{{- $admin := get .Values.config "admin" }}
{{- $listen := "" }}
{{- if kindIs "string" $admin }}{{ $listen = $admin }}{{ else if kindIs "map" $admin }}{{ $listen = get $admin "listen" }}{{ end }}
{{- with $listen }}
# Where `pathloom probe` and `pathloom explain` ask.
- name: PATHLOOM_ADMIN
  value: {{ . | quote }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
