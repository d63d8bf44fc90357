{{- define "ctxdeploy.name" -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "ctxdeploy.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ctxdeploy.labels" -}}
{{ include "ctxdeploy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "ctxdeploy.secret" -}}
{{- .Values.keys.existingSecret | default (printf "%s-keys" (include "ctxdeploy.name" .)) -}}
{{- end -}}

{{- define "ctxdeploy.claim" -}}
{{- .Values.archive.existingClaim | default (printf "%s-archive" (include "ctxdeploy.name" .)) -}}
{{- end -}}
