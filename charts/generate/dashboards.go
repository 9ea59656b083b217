package main

import (
	"bytes"
	"encoding/json"
	"strings"
)

// A dashboard, as far as ours differ. In queries, SERIES stands for the label matchers that the variables choose.
type dashboard struct {
	uid, title, description string
	series                  string
	replicas                string // a query for those whose starts are marked
	variables               []variable
	rows                    []row
}

// variable is a choice at the top, made of the values of a label.
type variable struct {
	name, title, query string
	multi              bool
}

type row struct {
	title  string
	panels []panel
}

type panel struct {
	title, description string
	kind               string // timeseries, stat, table, heatmap
	unit               string
	width              int // of 24
	stacked            bool
	queries            []query
}

type query struct {
	expr, legend string
}

// operator is for whoever runs Holdfast.
var operator = dashboard{
	uid:         "holdfast-operator",
	title:       "Holdfast",
	description: "Everything that an installation of Holdfast serves, and how it fares.",
	series:      `namespace=~"$namespace",pod=~"$pod"`,
	replicas:    `holdfast_build_info{namespace=~"$namespace",pod=~"$pod"}`,
	variables: []variable{
		{name: "namespace", title: "Namespace of Holdfast", query: "label_values(holdfast_build_info, namespace)", multi: true},
		{name: "pod", title: "Replica", query: `label_values(holdfast_build_info{namespace=~"$namespace"}, pod)`, multi: true},
		{name: "route", title: "Route", query: `label_values(holdfast_connections_active{namespace=~"$namespace"}, route)`, multi: true},
	},
	rows: []row{
		{"At a glance", []panel{
			{title: "Open tunnels", kind: "stat", unit: "short", width: 4, queries: []query{{`sum(holdfast_connections_active{SERIES,route=~"$route"})`, ""}}},
			{title: "Replicas", kind: "stat", unit: "short", width: 4, queries: []query{{`count by (version) (holdfast_build_info{SERIES})`, "{{version}}"}}},
			{title: "Routes", kind: "stat", unit: "short", width: 4, queries: []query{{`max by (state) (holdfast_routes{SERIES})`, "{{state}}"}}},
			{title: "Open tunnels by route", kind: "timeseries", unit: "short", width: 12, stacked: true, queries: []query{{`sum by (route_namespace, route) (holdfast_connections_active{SERIES,route=~"$route"})`, "{{route_namespace}}/{{route}}"}}},
			{title: "Handshakes by answer", kind: "timeseries", unit: "reqps", width: 12, stacked: true, queries: []query{{`sum by (code, reason) (rate(holdfast_handshakes_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{code}} {{reason}}"}}},
			{title: "Ends by cause", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (initiator, cause) (rate(holdfast_ends_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{initiator}}: {{cause}}"}}},
		}},
		{"Ends that nobody asked for", []panel{
			{title: "By cause", description: "What was neither closed by a side nor by a rule that a route sets.", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (cause) (rate(holdfast_ends_total{SERIES,route=~"$route",cause!~"closed|idle_timeout|max_duration|drain"}[$__rate_interval]))`, "{{cause}}"}}},
			{title: "Close codes", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (initiator, code) (rate(holdfast_close_codes_total{SERIES}[$__rate_interval]))`, "{{initiator}} {{code}}"}}},
			{title: "Silent legs", description: "Intervals without an answer to a ping.", kind: "timeseries", unit: "ops", width: 12, queries: []query{{`sum by (leg) (rate(holdfast_heartbeats_missed_total{SERIES}[$__rate_interval]))`, "{{leg}}"}}},
			{title: "Age at the end", kind: "timeseries", unit: "s", width: 12, queries: []query{
				{`histogram_quantile(0.5, sum by (le) (rate(holdfast_connection_duration_seconds_bucket{SERIES,route=~"$route"}[$__rate_interval])))`, "p50"},
				{`histogram_quantile(0.95, sum by (le) (rate(holdfast_connection_duration_seconds_bucket{SERIES,route=~"$route"}[$__rate_interval])))`, "p95"},
			}},
		}},
		{"Limits", []panel{
			{title: "Refused by limits", description: "dry_run: would have been.", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (limit, mode) (rate(holdfast_limited_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{limit}} {{mode}}"}}},
			{title: "Clients that limits count", kind: "timeseries", unit: "short", width: 12, queries: []query{
				{`sum by (limit) (holdfast_limited_clients{SERIES})`, "{{limit}}"},
				{`sum(rate(holdfast_limited_clients_evicted_total{SERIES}[$__rate_interval]))`, "forgotten too early, each second"},
			}},
			{title: "Limits inside tunnels", description: "limits.tunnel. dry_run: nothing came of it.", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (direction, limit, outcome) (rate(holdfast_tunnel_limited_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{direction}} {{limit}} {{outcome}}"}}},
			{title: "Sides that are held back", description: "They sent more than limits.tunnel allows, and are not read until their rate allows more.", kind: "timeseries", unit: "short", width: 12, queries: []query{
				{`sum by (pod) (holdfast_delayed_connections{SERIES})`, "{{pod}} tunnels now"},
				{`sum by (direction) (rate(holdfast_delayed_seconds_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{direction}} on average"},
			}},
			{title: "Handshakes of foreign pages", description: "passed: with cookies other than ours. spec.security.origins refuses them.", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (verdict) (rate(holdfast_cross_origin_handshakes_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{verdict}}"}}},
		}},
		{"Drains and reconnects", []panel{
			{title: "Still to end", kind: "timeseries", unit: "short", width: 12, queries: []query{{`sum by (pod) (holdfast_drain_remaining{SERIES})`, "{{pod}}"}}},
			{title: "Ended by drains, and new tunnels", description: "Who is ended by a drain comes back: the pace of the one is that of the other.", kind: "timeseries", unit: "ops", width: 12, queries: []query{
				{`sum(rate(holdfast_ends_total{SERIES,cause="drain"}[$__rate_interval]))`, "ended by a drain"},
				{`sum(rate(holdfast_handshakes_total{SERIES,reason="accepted"}[$__rate_interval]))`, "new"},
			}},
		}},
		{"Endpoints", []panel{
			{title: "Tunnels by endpoint", kind: "timeseries", unit: "short", width: 12, queries: []query{{`sum by (endpoint_namespace, endpoint_service, endpoint_pod) (holdfast_endpoint_connections_active{SERIES})`, "{{endpoint_namespace}}/{{endpoint_pod}}"}}},
			{title: "Fullest endpoint over the average", kind: "timeseries", unit: "short", width: 12, queries: []query{{`max by (endpoint_namespace, endpoint_service) (sum by (endpoint_namespace, endpoint_service, endpoint_pod) (holdfast_endpoint_connections_active{SERIES})) / avg by (endpoint_namespace, endpoint_service) (sum by (endpoint_namespace, endpoint_service, endpoint_pod) (holdfast_endpoint_connections_active{SERIES}))`, "{{endpoint_namespace}}/{{endpoint_service}}"}}},
			{title: "Dials that failed", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (endpoint_namespace, endpoint_pod, result) (rate(holdfast_endpoint_dials_total{SERIES,result!="connected"}[$__rate_interval]))`, "{{endpoint_namespace}}/{{endpoint_pod}} {{result}}"}}},
			{title: "Endpoints that are left out", description: "Passive health: they failed lately.", kind: "timeseries", unit: "short", width: 12, queries: []query{{`max by (endpoint_namespace, endpoint_service, endpoint_pod) (holdfast_endpoint_ejected{SERIES}) > 0`, "{{endpoint_namespace}}/{{endpoint_pod}}"}}},
			{title: "Ejections", description: "Passive health, by the most frequent failure.", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (reason) (rate(holdfast_endpoint_ejections_total{SERIES}[$__rate_interval]))`, "{{reason}}"}}},
			{title: "Handshakes sent to one more endpoint", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (reason) (rate(holdfast_handshake_retries_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{reason}}"}}},
			{title: "Round trip of pings", kind: "heatmap", unit: "s", width: 12, queries: []query{{`sum by (le) (increase(holdfast_heartbeat_rtt_seconds_bucket{SERIES}[$__rate_interval]))`, "{{le}}"}}},
		}},
		{"Latency and throughput", []panel{
			{title: "Handshake, request to 101", kind: "timeseries", unit: "s", width: 12, queries: []query{
				{`histogram_quantile(0.5, sum by (le) (rate(holdfast_handshake_duration_seconds_bucket{SERIES,route=~"$route"}[$__rate_interval])))`, "p50"},
				{`histogram_quantile(0.99, sum by (le) (rate(holdfast_handshake_duration_seconds_bucket{SERIES,route=~"$route"}[$__rate_interval])))`, "p99"},
			}},
			{title: "Messages", kind: "timeseries", unit: "ops", width: 12, queries: []query{{`sum by (direction) (rate(holdfast_relayed_messages_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{direction}}"}}},
			{title: "Bytes", kind: "timeseries", unit: "Bps", width: 12, queries: []query{{`sum by (direction) (rate(holdfast_relayed_bytes_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{direction}}"}}},
			{title: "Stalled tunnels", description: "A side accepts none of the bytes that are queued for it.", kind: "timeseries", unit: "short", width: 12, queries: []query{{`sum by (pod) (holdfast_stalled_connections{SERIES})`, "{{pod}}"}}},
			{title: "Plain requests", kind: "timeseries", unit: "reqps", width: 12, stacked: true, queries: []query{{`sum by (code) (rate(holdfast_fallback_requests_total{SERIES,route=~"$route"}[$__rate_interval]))`, "{{code}}"}}},
			{title: "TLS handshakes", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (result) (rate(holdfast_tls_handshakes_total{SERIES}[$__rate_interval]))`, "{{result}}"}}},
		}},
		{"Control", []panel{
			{title: "Age of the view", description: "Since something was last heard of each kind; a minute at most while the API server answers.", kind: "timeseries", unit: "s", width: 12, queries: []query{{`time() - min by (kind) (holdfast_watch_last_event_timestamp_seconds{SERIES})`, "{{kind}}"}}},
			{title: "Lists and watches that failed", kind: "timeseries", unit: "ops", width: 12, queries: []query{{`sum by (kind) (rate(holdfast_watch_errors_total{SERIES}[$__rate_interval]))`, "{{kind}}"}}},
			{title: "Table build", kind: "timeseries", unit: "s", width: 12, queries: []query{{`histogram_quantile(0.99, sum by (le) (rate(holdfast_snapshot_build_duration_seconds_bucket{SERIES}[$__rate_interval])))`, "p99"}}},
			{title: "Tables published", kind: "timeseries", unit: "ops", width: 12, queries: []query{{`sum by (pod) (rate(holdfast_snapshot_generation{SERIES}[$__rate_interval]))`, "{{pod}}"}}},
			{title: "Leader", kind: "timeseries", unit: "short", width: 12, queries: []query{{`sum by (pod) (holdfast_leader{SERIES})`, "{{pod}}"}}},
			{title: "Routes by state", kind: "timeseries", unit: "short", width: 12, queries: []query{{`max by (pod, state) (holdfast_routes{SERIES})`, "{{pod}} {{state}}"}}},
		}},
		{"Headroom", []panel{
			{title: "File descriptors in use", kind: "timeseries", unit: "percentunit", width: 12, queries: []query{{`process_open_fds{SERIES} / process_max_fds{SERIES} and on (namespace, pod) holdfast_build_info`, "{{pod}}"}}},
			{title: "Memory", kind: "timeseries", unit: "bytes", width: 12, queries: []query{{`process_resident_memory_bytes{SERIES} and on (namespace, pod) holdfast_build_info`, "{{pod}}"}}},
			{title: "CPU", description: "Cores in use.", kind: "timeseries", unit: "short", width: 12, queries: []query{{`rate(process_cpu_seconds_total{SERIES}[$__rate_interval]) and on (namespace, pod) holdfast_build_info`, "{{pod}}"}}},
			{title: "CPU of each worker", description: "1: a whole core.", kind: "timeseries", unit: "percentunit", width: 12, queries: []query{{`sum by (pod, worker) (rate(holdfast_worker_busy_seconds_total{SERIES}[$__rate_interval]))`, "{{pod}} {{worker}}"}}},
			{title: "Connections of each worker", kind: "timeseries", unit: "short", width: 12, queries: []query{{`sum by (pod, worker) (holdfast_worker_connections_active{SERIES})`, "{{pod}} {{worker}}"}}},
			{title: "Dials without a source port", kind: "timeseries", unit: "ops", width: 12, queries: []query{{`sum by (pod) (rate(holdfast_endpoint_dials_total{SERIES,result="no_source_port"}[$__rate_interval]))`, "{{pod}}"}}},
			{title: "What was lost or not believed", kind: "timeseries", unit: "ops", width: 12, queries: []query{
				{`sum(rate(holdfast_records_dropped_total{SERIES}[$__rate_interval]))`, "access lines that nobody read in time"},
				{`sum(rate(holdfast_accept_errors_total{SERIES}[$__rate_interval]))`, "connections that could not be accepted"},
				{`sum(rate(holdfast_untrusted_forwarders_total{SERIES}[$__rate_interval]))`, "X-Forwarded-For from untrusted proxies"},
			}},
		}},
		{"Certificates", []panel{
			{title: "Age of the keys of session tickets", description: "The leader rotates them every 12 hours.", kind: "timeseries", unit: "s", width: 12, queries: []query{{`time() - max(holdfast_ticket_keys_rotated_timestamp_seconds{SERIES} > 0)`, "age"}}},
			{title: "Time left", kind: "table", unit: "s", width: 12, queries: []query{{`sort(min by (secret_namespace, secret) (holdfast_certificate_expiry_timestamp_seconds{SERIES}) - time())`, ""}}},
		}},
	},
}

// route is for whoever owns one route, and knows nothing of Holdfast.
var route = dashboard{
	uid:         "holdfast-route",
	title:       "Holdfast: one route",
	description: "One WebSocketRoute: who is connected, how handshakes went, why tunnels ended.",
	series:      `route_namespace="$route_namespace",route="$route"`,
	replicas:    `holdfast_connections_active{route_namespace="$route_namespace",route="$route"}`,
	variables: []variable{
		{name: "route_namespace", title: "Namespace", query: "label_values(holdfast_connections_active, route_namespace)"},
		{name: "route", title: "Route", query: `label_values(holdfast_connections_active{route_namespace="$route_namespace"}, route)`},
	},
	rows: []row{
		{"Connections", []panel{
			{title: "Open now", kind: "stat", unit: "short", width: 4, queries: []query{{`sum(holdfast_connections_active{SERIES})`, ""}}},
			{title: "Handshakes that failed", kind: "stat", unit: "percentunit", width: 4, queries: []query{{`(sum(rate(holdfast_handshakes_total{SERIES,code=~"5.."}[$__range])) or vector(0)) / sum(rate(holdfast_handshakes_total{SERIES}[$__range]))`, ""}}},
			{title: "Open tunnels by rule", kind: "timeseries", unit: "short", width: 16, stacked: true, queries: []query{{`sum by (rule) (holdfast_connections_active{SERIES})`, "{{rule}}"}}},
			{title: "Handshakes by answer", kind: "timeseries", unit: "reqps", width: 12, stacked: true, queries: []query{{`sum by (code, reason) (rate(holdfast_handshakes_total{SERIES}[$__rate_interval]))`, "{{code}} {{reason}}"}}},
			{title: "Ends by cause", description: "holdfast explain CAUSE says what each means.", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (initiator, cause) (rate(holdfast_ends_total{SERIES}[$__rate_interval]))`, "{{initiator}}: {{cause}}"}}},
			{title: "Age at the end", kind: "timeseries", unit: "s", width: 12, queries: []query{
				{`histogram_quantile(0.5, sum by (le) (rate(holdfast_connection_duration_seconds_bucket{SERIES}[$__rate_interval])))`, "p50"},
				{`histogram_quantile(0.95, sum by (le) (rate(holdfast_connection_duration_seconds_bucket{SERIES}[$__rate_interval])))`, "p95"},
			}},
			{title: "Handshake, request to 101", kind: "timeseries", unit: "s", width: 12, queries: []query{
				{`histogram_quantile(0.5, sum by (le) (rate(holdfast_handshake_duration_seconds_bucket{SERIES}[$__rate_interval])))`, "p50"},
				{`histogram_quantile(0.99, sum by (le) (rate(holdfast_handshake_duration_seconds_bucket{SERIES}[$__rate_interval])))`, "p99"},
			}},
		}},
		{"Traffic", []panel{
			{title: "Refused by limits", description: "dry_run: would have been.", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (limit, mode) (rate(holdfast_limited_total{SERIES}[$__rate_interval]))`, "{{limit}} {{mode}}"}}},
			{title: "Limits inside tunnels", description: "limits.tunnel. dry_run: nothing came of it.", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (direction, limit, outcome) (rate(holdfast_tunnel_limited_total{SERIES}[$__rate_interval]))`, "{{direction}} {{limit}} {{outcome}}"}}},
			{title: "Sides that are held back", description: "They sent more than limits.tunnel allows. How many, on average.", kind: "timeseries", unit: "short", width: 12, queries: []query{{`sum by (direction) (rate(holdfast_delayed_seconds_total{SERIES}[$__rate_interval]))`, "{{direction}}"}}},
			{title: "Handshakes of foreign pages", description: "passed: with cookies other than ours. spec.security.origins refuses them.", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (verdict) (rate(holdfast_cross_origin_handshakes_total{SERIES}[$__rate_interval]))`, "{{verdict}}"}}},
			{title: "Handshakes sent to one more endpoint", kind: "timeseries", unit: "ops", width: 12, stacked: true, queries: []query{{`sum by (reason) (rate(holdfast_handshake_retries_total{SERIES}[$__rate_interval]))`, "{{reason}}"}}},
			{title: "Messages", kind: "timeseries", unit: "ops", width: 12, queries: []query{{`sum by (direction) (rate(holdfast_relayed_messages_total{SERIES}[$__rate_interval]))`, "{{direction}}"}}},
			{title: "Bytes", kind: "timeseries", unit: "Bps", width: 12, queries: []query{{`sum by (direction) (rate(holdfast_relayed_bytes_total{SERIES}[$__rate_interval]))`, "{{direction}}"}}},
			{title: "Plain requests", kind: "timeseries", unit: "reqps", width: 12, stacked: true, queries: []query{{`sum by (code) (rate(holdfast_fallback_requests_total{SERIES}[$__rate_interval]))`, "{{code}}"}}},
			{title: "Tunnels by endpoint", description: "Of all Services in the namespace: an endpoint may have more than one route.", kind: "timeseries", unit: "short", width: 12, queries: []query{{`sum by (endpoint_service, endpoint_pod) (holdfast_endpoint_connections_active{endpoint_namespace="$route_namespace"})`, "{{endpoint_pod}}"}}},
		}},
	},
}

// json is the dashboard as Grafana reads it.
func (d dashboard) json() string {
	source := object{"type": "prometheus", "uid": "${datasource}"}
	variables := []any{object{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}}
	for _, it := range d.variables {
		variable := object{
			"name": it.name, "label": it.title, "type": "query", "datasource": source, "refresh": 2, "sort": 1,
			"query": object{"query": it.query, "refId": it.name}, "definition": it.query,
			"multi": it.multi, "includeAll": it.multi,
		}
		if it.multi {
			variable["allValue"] = ".*"
			variable["current"] = object{"text": "All", "value": "$__all"}
		}
		variables = append(variables, variable)
	}
	panels := []any{}
	top := 0
	for _, row := range d.rows {
		panels = append(panels, object{"id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": false, "panels": []any{}, "gridPos": place(0, top, 24, 1)})
		top++
		left, height := 0, 0
		for _, it := range row.panels {
			if left+it.width > 24 {
				left, top, height = 0, top+height, 0
			}
			panels = append(panels, it.json(len(panels)+1, left, top, source, d.series))
			left, height = left+it.width, 8
		}
		top += height
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(object{
		"uid": d.uid, "title": d.title, "description": d.description, "tags": []string{"holdfast"},
		"schemaVersion": 39, "version": 1, "editable": true, "graphTooltip": 1, "refresh": "30s",
		"time":       object{"from": "now-3h", "to": "now"},
		"templating": object{"list": variables}, "panels": panels,
		"annotations": object{"list": []any{object{
			"name": "A replica starts", "datasource": source, "enable": true, "iconColor": "blue", "titleFormat": "{{pod}}",
			"expr": "1000 * (process_start_time_seconds and on (namespace, pod) " + d.replicas + ")", "useValueForTime": "on", "step": "60s",
		}}},
	}); err != nil {
		panic(err) // there is nothing in it that JSON cannot say
	}
	return out.String()
}

func (p panel) json(id, left, top int, source object, series string) object {
	targets := []any{}
	for at, query := range p.queries {
		target := object{
			"refId": string(rune('A' + at)), "datasource": source, "legendFormat": query.legend,
			"expr": strings.ReplaceAll(query.expr, "SERIES", series),
		}
		if p.kind == "table" || p.kind == "stat" {
			target["instant"] = true
		}
		if p.kind == "table" {
			target["format"] = "table"
		}
		if p.kind == "heatmap" {
			target["format"] = "heatmap"
		}
		targets = append(targets, target)
	}
	defaults := object{"unit": p.unit, "min": 0}
	if p.kind == "table" {
		delete(defaults, "min")
	}
	if p.kind == "timeseries" {
		custom := object{"fillOpacity": 0, "showPoints": "never"}
		if p.stacked {
			custom = object{"fillOpacity": 30, "showPoints": "never", "stacking": object{"mode": "normal"}}
		}
		defaults["custom"] = custom
	}
	return object{
		"id": id, "type": p.kind, "title": p.title, "description": p.description, "datasource": source,
		"gridPos": place(left, top, p.width, 8), "targets": targets,
		"fieldConfig": object{"defaults": defaults, "overrides": []any{}},
	}
}

func place(left, top, width, height int) object {
	return object{"x": left, "y": top, "w": width, "h": height}
}
