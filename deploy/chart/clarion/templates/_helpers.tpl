{{/* Labels of every object. Call with a dict, which for what belongs to one program has its name. */}}
{{- define "clarion.labels" -}}
{{- with index . "name" -}}
app.kubernetes.io/name: {{ . }}
{{ end -}}
app.kubernetes.io/part-of: clarion
{{- end -}}

{{- define "clarion.image" -}}
{{ .repository }}:{{ .root.Values.images.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{/*
What a profile adds to the agent: args, mounts and volumes. A further profile
is a further branch here; the DaemonSet itself does not know them.
*/}}
{{- define "clarion.profile.args" -}}
{{- if eq .Values.profile "full" }}{{ fail "profile full is not in this version of Clarion; use profile lb" }}{{ end -}}
- --profile={{ .Values.profile }}
{{- end -}}
{{- define "clarion.profile.mounts" -}}
{{- end -}}
{{- define "clarion.profile.volumes" -}}
{{- end -}}
{{- define "clarion.profile.initContainers" -}}
{{- end -}}
