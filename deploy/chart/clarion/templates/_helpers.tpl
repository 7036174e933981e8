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
- --profile={{ .Values.profile }}
{{- end -}}
{{- define "clarion.profile.mounts" -}}
{{- if eq .Values.profile "full" -}}
# The plugin and its configuration, for the container runtime.
- {name: cni-bin, mountPath: /opt/cni/bin}
- {name: cni-conf, mountPath: /etc/cni/net.d}
# Forwarding and the few other settings that docs/decisions/0004 lists.
- {name: sysctl, mountPath: /host/proc/sys/net}
# Where the kubelet finds the API server.
- {name: kubernetes, mountPath: /host/etc/kubernetes, readOnly: true}
{{- end -}}
{{- end -}}
{{- define "clarion.profile.volumes" -}}
{{- if eq .Values.profile "full" -}}
- name: cni-bin
  hostPath: {path: /opt/cni/bin, type: DirectoryOrCreate}
- name: cni-conf
  hostPath: {path: /etc/cni/net.d, type: DirectoryOrCreate}
- name: sysctl
  hostPath: {path: /proc/sys/net, type: Directory}
- name: kubernetes
  hostPath: {path: /etc/kubernetes, type: DirectoryOrCreate}
{{- end -}}
{{- end -}}
{{- define "clarion.profile.initContainers" -}}
{{- end -}}
