{{- define "oom-collector.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "oom-collector.fullname" -}}
{{- $name := include "oom-collector.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $full | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "oom-collector.selector" -}}
app.kubernetes.io/name: {{ include "oom-collector.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "oom-collector.labels" -}}
{{ include "oom-collector.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "oom-collector.serviceAccount" -}}
{{- $default := ternary (include "oom-collector.fullname" .) "default" .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default $default }}
{{- end }}

{{- define "oom-collector.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What is on, all "auto" decided: a map of booleans, as YAML. */ -}}
{{- define "oom-collector.on" -}}
{{- $kmsg := eq .Values.mode "kmsg" }}
{{- $journald := eq .Values.mode "journald" }}
{{- $index := eq (toString .Values.processes.index | replace "auto" (toString $kmsg)) "true" }}
kmsg: {{ $kmsg }}
syslog: {{ eq .Values.mode "syslog" }}
journal: {{ or $journald (eq (toString .Values.userspaceKills.enabled) "true") }}
userspaceKills: {{ eq (toString .Values.userspaceKills.enabled | replace "auto" (toString $journald)) "true" }}
kubernetes: {{ .Values.kubernetes.enabled }}
events: {{ and .Values.kubernetes.enabled .Values.events.enabled }}
ownerDetails: {{ and .Values.kubernetes.enabled .Values.ownerDetails.enabled }}
index: {{ $index }}
environments: {{ and $index .Values.processes.environments }}
connector: {{ and $index (eq (toString .Values.processes.connector | replace "auto" (toString $kmsg)) "true") }}
webhook: {{ or .Values.webhook.url .Values.webhook.urlSecret.name | empty | not }}
alertmanager: {{ not (empty .Values.alertmanager.url) }}
prometheus: {{ not (empty .Values.diagnosis.prometheusUrl) }}
monitor: {{ or .Values.podMonitor.enabled .Values.serviceMonitor.enabled }}
{{- end }}

{{- /* The agent's settings, by the names of their variables without the prefix. */ -}}
{{- define "oom-collector.settings" -}}
{{- $on := include "oom-collector.on" . | fromYaml }}
KERNEL_LOG: {{ .Values.mode }}
CGROUP_ROOT: /host/cgroup
STATE_DIR: /var/lib/oom-collector
LISTEN: {{ printf "%s:%v" .Values.metrics.listen .Values.metrics.port | quote }}
METRICS_HOLD: {{ .Values.metrics.holdSeconds }}
METRICS_OFF: {{ join "," .Values.metrics.disabledFamilies | quote }}
START_TIMESTAMPS: {{ ternary "on" "off" .Values.metrics.startTimestamps | quote }}
EXEMPLARS: {{ ternary "on" "off" .Values.metrics.exemplars | quote }}
LOG_LEVEL: {{ .Values.logLevel }}
PROC_CONNECTOR: {{ ternary "auto" "off" $on.connector | quote }}
USERSPACE_KILLS: {{ ternary "on" "off" $on.userspaceKills | quote }}
KUBERNETES: {{ ternary "auto" "off" $on.kubernetes | quote }}
EVENTS: {{ ternary "on" "off" $on.events | quote }}
OWNER_DETAILS: {{ ternary "on" "off" $on.ownerDetails | quote }}
{{- if $on.kubernetes }}
API_JITTER: {{ .Values.kubernetes.jitterSeconds }}
{{- end }}
EVENT_MAX_AGE: {{ .Values.events.maxAgeSeconds }}
{{- if .Values.webConfig.secretName }}
WEB_CONFIG_FILE: /etc/oom-collector/web/{{ .Values.webConfig.file }}
{{- end }}
{{- with .Values.webhook.url }}
WEBHOOK_URL: {{ . | quote }}
{{- end }}
{{- if .Values.webhook.signingSecret.name }}
WEBHOOK_SECRET_FILE: /etc/oom-collector/webhook/{{ .Values.webhook.signingSecret.key }}
{{- end }}
{{- if $on.alertmanager }}
ALERTMANAGER_URL: {{ .Values.alertmanager.url | quote }}
ALERTMANAGER_RESOLVE_AFTER: {{ .Values.alertmanager.resolveAfterSeconds }}
{{- end }}
LIMIT_FACTOR: {{ .Values.diagnosis.limitFactor }}
FORECAST_HORIZON: {{ .Values.diagnosis.forecastHorizonSeconds }}
{{- if $on.prometheus }}
PROMETHEUS_URL: {{ .Values.diagnosis.prometheusUrl | quote }}
{{- end }}
{{- end }}

{{- /* An endpoint of a PodMonitor or ServiceMonitor. Arguments: values of the monitor, the root. */ -}}
{{- define "oom-collector.endpoint" -}}
{{- $monitor := index . 0 }}
{{- $endpoint := dict "port" "metrics" "scheme" (lower (index . 1).Values.webConfig.scheme) "honorLabels" true }}
{{- $node := dict "sourceLabels" (list "__meta_kubernetes_pod_node_name") "targetLabel" "node" }}
{{- $_ := set $endpoint "relabelings" (list $node) }}
{{- with $monitor.interval }}
{{- $_ := set $endpoint "interval" . }}
{{- end }}
{{- toYaml (mergeOverwrite $endpoint (deepCopy $monitor.endpoint)) }}
{{- end }}
