{{/* Prefix of all names: the release's name, with the chart's unless it is in it. Room is left for the longest suffix. */}}
{{- define "wharfinger.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of a component's objects; call with (list $ "component"). */}}
{{- define "wharfinger.labels" -}}
{{- $root := index . 0 -}}
{{ include "wharfinger.selectorLabels" . }}
app.kubernetes.io/part-of: wharfinger
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels by which a component's pods are found; call with (list $ "component"). They never change. */}}
{{- define "wharfinger.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* A component's image; call with (list $ "operator"|"dataplane"|"sidecar"). */}}
{{- define "wharfinger.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.image (index . 1) -}}
{{ $image.repository }}:{{ $image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end -}}

{{- define "wharfinger.pullPolicy" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.image (index . 1) -}}
{{ $image.pullPolicy | default $root.Values.image.pullPolicy }}
{{- end -}}

{{/* Where a component's pods may run; call with (list $ .Values.component). */}}
{{- define "wharfinger.scheduling" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- with $component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $component.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What a pod tells its process about itself. */}}
{{- define "wharfinger.downwardEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end -}}

{{/* OpenTelemetry's variables; call with (list $ "service name"). Without an end point nothing is set, and nothing is exported. */}}
{{- define "wharfinger.telemetryEnv" -}}
{{- $root := index . 0 -}}
{{- $telemetry := $root.Values.telemetry -}}
- name: OTEL_SERVICE_NAME
  value: {{ index . 1 }}
{{- if $telemetry.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: http/protobuf
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ $telemetry.otlpEndpoint | quote }}
{{- end }}
{{- with $telemetry.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The security context of containers that need no privilege: Pod Security Standard "restricted". */}}
{{- define "wharfinger.restricted" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
runAsGroup: 65532
runAsNonRoot: true
runAsUser: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "wharfinger.traceKeySecret" -}}
{{ .Values.telemetry.traceKey.existingSecret | default (printf "%s-trace-key" (include "wharfinger.fullname" .)) }}
{{- end -}}
