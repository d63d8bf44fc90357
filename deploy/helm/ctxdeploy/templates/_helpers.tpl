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

{{/* Of the servers of part N of the shards, and of the service that gives each a name. */}}
{{- define "ctxdeploy.part" -}}
{{- printf "%s-part-%d" (include "ctxdeploy.name" .root) (int .part) -}}
{{- end -}}

{{- define "ctxdeploy.partSelector" -}}
app.kubernetes.io/name: {{ printf "%s-part" .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ printf "part-%d" (int .part) }}
{{- end -}}

{{/* What a front is told of the servers of its parts, one name a pod. */}}
{{- define "ctxdeploy.servers" -}}
{{- $service := include "ctxdeploy.part" . -}}
{{- range $pod := until (int .root.Values.shards.replicas) -}}
{{- if $pod }},{{ end -}}
{{- printf "http://%s-%d.%s:8000" $service $pod $service -}}
{{- end -}}
{{- end -}}

{{- define "ctxdeploy.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "ctxdeploy.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "ctxdeploy.probes" -}}
startupProbe:
  httpGet:
    path: /livez
    port: http
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /livez
    port: http
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: http
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
# Before SIGTERM, so that no request is sent to a pod that ends.
lifecycle:
  preStop:
    exec:
      command: ["sleep", "5"]
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: ["ALL"]
{{- end -}}

{{- define "ctxdeploy.mounts" -}}
- name: archive
  mountPath: /archive
  {{- with .Values.archive.subPath }}
  subPath: {{ . | quote }}
  {{- end }}
  readOnly: true
- name: keys
  mountPath: /run/keys
  readOnly: true
- name: tmp
  mountPath: /tmp
- name: memory
  mountPath: /dev/shm
{{- end -}}

{{- define "ctxdeploy.volumes" -}}
- name: archive
  persistentVolumeClaim:
    claimName: {{ include "ctxdeploy.claim" . }}
    readOnly: true
- name: keys
  secret:
    secretName: {{ include "ctxdeploy.secret" . }}
    defaultMode: 0440
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
- name: memory
  emptyDir:
    medium: Memory
    sizeLimit: 256Mi
{{- end -}}

{{- define "ctxdeploy.environment" -}}
{{- with .Values.processor }}
env:
  - name: CTXDEPLOY_PROCESSOR
    value: {{ . }}
{{- end }}
{{- end -}}
