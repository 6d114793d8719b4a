// What can be explored in a report: timeline, points of a sweep, maps of plans. The page has their data.
"use strict";
(() => {
  const explored = JSON.parse(document.getElementById("explored").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const {figure, show} = Bokeh.Plotting;

  function find(id) {
    return document.getElementById(id);
  }

  function color_of(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function parts_of(color) {
    return [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));
  }

  function is_dark(parts) {
    return 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] < 118;
  }

  function mixed(parts, others, share) {
    return parts.map((part, at) => Math.round(part + share * (others[at] - part)));
  }

  function seen(color) {
    const parts = parts_of(color);
    if (!dark.matches || !is_dark(parts)) return color;
    // Lighter, and more of its hue: with white alone, brown and grey would look alike.
    const mean = (parts[0] + parts[1] + parts[2]) / 3;
    const vivid = parts.map(part => Math.min(255, Math.max(0, mean + 2 * (part - mean))));
    return `rgb(${mixed(vivid, [255, 255, 255], 0.5).join(",")})`;
  }

  // What is drawn for a dark screen may be printed on white paper.
  function text_color() {
    return dark.matches ? "#868686" : color_of("--text");
  }

  function panel(height, x_label, y_label, others) {
    const [text, line] = [text_color(), color_of("--line")];
    const plot = figure({height, sizing_mode: "stretch_width", tools: "xpan,xwheel_zoom,xbox_zoom,reset",
      background_fill_alpha: 0, border_fill_alpha: 0, outline_line_color: line, min_border_left: 90, ...others});
    for (const axis of plot.axes) {
      Object.assign(axis, {axis_label_text_color: text, major_label_text_color: text, axis_line_color: line,
        major_tick_line_color: line, minor_tick_line_color: null, axis_label_text_font_style: "normal"});
    }
    for (const grid of plot.grids) grid.grid_line_color = line;
    plot.xaxis.axis_label = x_label;
    plot.yaxis.axis_label = y_label;
    return plot;
  }

  function from_zero() {
    return new Bokeh.DataRange1d({start: 0});
  }

  function hover(plot, renderers, tooltips) {
    plot.add_tools(new Bokeh.HoverTool({renderers, tooltips}));
  }

  function turn_off_by_name(plot) {
    const ncols = Math.max(1, Math.floor(find("page").clientWidth / 170));
    Object.assign(plot.legend, {click_policy: "hide", background_fill_alpha: 0, border_line_color: null,
      label_text_color: text_color(), orientation: "horizontal", ncols});
    // Names take no room from what is drawn: a row of them is 23 pixels high.
    plot.height += 23 * (Math.ceil(plot.legend.items.length / ncols) - 1);
    plot.add_layout(plot.legend, "above");
  }

  // Room between a name and the next mark: that of a legend is also between its rows.
  function label_of(name) {
    return name + "\u2003";
  }

  function source(data) {
    return new Bokeh.ColumnDataSource({data});
  }

  function columns(rows) {
    return source(Object.fromEntries(Object.keys(rows[0]).map(name => [name, rows.map(row => row[name])])));
  }

  let x_range;

  function draw_timeline(data, place) {
    // What is drawn anew keeps its zoom.
    x_range = new Bokeh.Range1d({start: x_range?.start ?? 0, end: x_range?.end ?? data.end, bounds: [0, data.end]});
    // An instant stands at the same place in all panels: names and tools take as much room beside each.
    const longest = Math.max(...data.systems.map(one => one.name.length));
    const shared = {x_range, active_scroll: "xwheel_zoom", min_border_left: Math.max(90, 20 + 7 * longest), min_border_right: 20};
    const rates = panel(300, "", "samples/s kept", {...shared, toolbar_location: "above", y_range: from_zero()});
    // What a measured job did beside training is not known: it has no row, which would show it train all the time.
    const told = data.systems.filter(one => one.phases.what.length);
    const phases = panel(60 + 26 * told.length, "", "",
      {...shared, toolbar_location: null, y_range: told.map(one => one.name).reverse()});
    const nodes = panel(150, `time (${data.unit})`, "nodes alive", {...shared, toolbar_location: null, y_range: from_zero()});
    // More than a mark every few pixels would hide the lines.
    const dense = data.systems.some(one => one.failures.time.length > 100);
    const marks = dense ? {size: 5, line_color: null} : {size: 10, line_color: color_of("--text")};
    const bars = data.systems.map(one => {
      const color = seen(one.color), legend_label = label_of(one.name);
      const line = rates.step({x: one.x, y: one.rate, mode: "after", color, line_width: 2, line_dash: one.dash, legend_label});
      const failed = rates.scatter({source: source(one.failures), x: {field: "time"}, y: {field: "rate"},
        marker: "triangle", color, ...marks, legend_label});
      hover(rates, [failed], [["", one.name], ["at", "@time{0.00} " + data.unit], ["failed", "@nodes"], ["decision", "@decision"],
        ["why", "@why"], ["trains again after", "@outage"], ["steps lost", "@lost_steps"]]);
      hover(rates, [line], [["", one.name], ["at", "$x{0.00} " + data.unit], ["samples/s", "$y{0.00}"]]);
      const bar = phases.hbar({source: source(one.phases), left: {field: "start"}, right: {field: "end"},
        y: one.phases.what.map(() => one.name), height: 0.8, color: {field: "color"}, line_color: null});
      line.visible = failed.visible = one.visible;
      line.properties.visible.change.connect(() => { bar.visible = line.visible; });
      return bar;
    });
    hover(phases, bars, [["phase", "@what"], ["seconds", "@seconds{0.0}"], ["from", "@start{0.00} " + data.unit]]);
    nodes.yaxis.ticker = new Bokeh.BasicTicker({min_interval: 1});
    const alive = nodes.step({x: data.nodes.x, y: data.nodes.alive, mode: "after", color: "#8a8a8a", line_width: 2});
    hover(nodes, [alive], [["nodes alive", "$y{0}"], ["at", "$x{0.00} " + data.unit]]);
    turn_off_by_name(rates);
    show([rates, ...(told.length ? [phases] : []), nodes], place);
  }

  function draw_points(data, place) {
    const at = find("points-axis").selectedIndex, axis = data.axes[at];
    const is_number = data.rows.every(row => typeof row.setting[at] === "number");
    const points = data.rows.map(row => ({...row, x: is_number ? row.setting[at] : String(row.setting[at]),
      others: row.setting.filter((_, index) => index !== at).join(", "), settings: row.setting.join(", ")}));
    const names = is_number ? [] : [...new Set(points.map(point => point.x))];
    const plot = panel(380, axis, "samples trained", {...(is_number ? {} : {x_range: names}), y_range: from_zero()});
    // Names that do not fit side by side.
    if (7 * names.join("   ").length > find("page").clientWidth - 150) {
      plot.xaxis.major_label_orientation = 0.8;
      plot.height += 5 * Math.max(...names.map(name => name.length));
    }
    plot.yaxis.formatter = new Bokeh.NumeralTickFormatter({format: "0,0"});
    if (data.rows.every(row => Number.isInteger(row.setting[at]))) plot.xaxis.ticker = new Bokeh.BasicTicker({min_interval: 1});
    for (const one of data.runs) {
      const color = seen(one.color), legend_label = label_of(one.name);
      const own = points.filter(point => point.run === one.name);
      for (const others of is_number || axis !== "run" ? new Set(own.map(point => point.others)) : []) {
        const line = own.filter(point => point.others === others);
        if (is_number) line.sort((before, after) => before.x - after.x);
        plot.line({source: columns(line), x: {field: "x"}, y: {field: "mean"}, color, line_dash: one.dash, legend_label});
      }
      plot.segment({source: columns(own), x0: {field: "x"}, x1: {field: "x"}, y0: {field: "low"}, y1: {field: "high"}, color, legend_label});
      const marks = plot.scatter({source: columns(own), x: {field: "x"}, y: {field: "mean"}, size: 9, color, legend_label});
      hover(plot, [marks], [["", one.name], [data.axes.join(", "), "@settings"], ["samples", "@mean{0,0}"],
        ["95 % interval", "@interval"]]);
    }
    turn_off_by_name(plot);
    show(plot, place);
  }

  function draw_map(data, place) {
    const plan = data.plans[find("map-plan").selectedIndex], slots = plan.slots[find("map-layer").selectedIndex];
    const replicas = new Map(), holders = new Map();
    slots.forEach((experts, node) => experts.filter(expert => expert >= 0).forEach(expert => {
      replicas.set(expert, (replicas.get(expert) ?? 0) + 1);
      holders.set(expert, (holders.get(expert) ?? new Set()).add(node));
    }));
    const sizes = [...holders.values()].map(nodes => nodes.size), least = Math.min(...sizes), most = Math.max(...sizes);
    const [few, many] = ["#9c2a1f", "#f3e3d3"].map(parts_of);
    const cells = slots.flatMap((experts, node) => experts.map((expert, slot) => {
      if (expert < 0) return {node, slot, expert: "-", replicas: 0, nodes: 0, fill: color_of("--shade"), text: color_of("--faint")};
      const nodes = holders.get(expert).size, parts = mixed(few, many, most > least ? (nodes - least) / (most - least) : 1);
      return {node, slot, expert: String(expert), replicas: replicas.get(expert), nodes, fill: `rgb(${parts.join(",")})`,
        text: is_dark(parts) ? "#fff" : "#000"};
    }));
    const [num_nodes, num_slots] = [slots.length, slots[0].length], height = Math.min(760, Math.max(200, 90 + 24 * num_nodes));
    const plot = panel(height, "slot", "node", {tools: "pan,box_zoom,reset", x_range: new Bokeh.Range1d({start: -0.5, end: num_slots - 0.5}),
      y_range: new Bokeh.Range1d({start: num_nodes - 0.5, end: -0.5})});
    for (const axis of plot.axes) axis.ticker = new Bokeh.BasicTicker({min_interval: 1});
    for (const grid of plot.grids) grid.visible = false;
    const given = columns(cells), [x, y] = [{field: "slot"}, {field: "node"}];
    const line_color = num_nodes > 100 ? null : color_of("--back");
    const drawn = plot.rect({source: given, x, y, width: 1, height: 1, color: {field: "fill"}, line_color});
    const letters = Math.max(...cells.map(cell => cell.expert.length));
    if ((height - 90) / num_nodes > 13 && (find("page").clientWidth - 120) / num_slots > 8 * letters + 2) {
      plot.text({source: given, x, y, text: {field: "expert"}, color: {field: "text"}, text_font_size: "12px", text_align: "center", text_baseline: "middle"});
    }
    hover(plot, [drawn], [["node", "@node"], ["slot", "@slot"], ["expert", "@expert"], ["replicas", "@replicas"], ["on nodes", "@nodes"]]);
    const endangered = [...holders.keys()].filter(expert => holders.get(expert).size === least).sort((one, other) => one - other);
    const more = endangered.length > 6 ? ` and ${endangered.length - 6} more` : "";
    find("map-said").textContent = `Fewest nodes of an expert of this layer: ${least} (expert${endangered.length > 1 ? "s" : ""} ${endangered.slice(0, 6).join(", ")}${more}).`;
    show(plot, place);
  }

  function list_layers() {
    const plan = explored.maps.plans[find("map-plan").selectedIndex], layer = find("map-layer");
    layer.replaceChildren(...plan.layers.map(number => new Option(number)));
    layer.selectedIndex = plan.least;
  }

  const draws = {points: draw_points, timeline: draw_timeline, map: draw_map};
  const data = {points: explored.points, timeline: explored.timeline, map: explored.maps};

  function draw(name) {
    find(name).replaceChildren();
    draws[name](data[name], find(name));
  }

  const shown = Object.keys(draws).filter(name => data[name]);
  if (data.map) {
    list_layers();
    find("map-plan").addEventListener("change", () => { list_layers(); draw("map"); });
    find("map-layer").addEventListener("change", () => draw("map"));
  }
  find("points-axis")?.addEventListener("change", () => draw("points"));
  shown.forEach(draw);
  // Colours are those of the scheme.
  dark.addEventListener("change", () => shown.forEach(draw));
})();
