/* Markdown to elements. Builds nodes, never HTML text, so that nothing a model writes can become
 * markup or script. Headings, lists, quotes, tables, code, emphasis, links to http(s). */
"use strict";

const Markdown = (() => {
    function element(name, ...children) {
        const made = document.createElement(name);
        made.append(...children);
        return made;
    }

    /* Code, links, strong, emphasis, struck; what is unfinished stays text. */
    const INLINE = /(`+)(.+?)\1(?!`)|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)|\*\*(?=\S)(.+?\S|\S)\*\*|__(?=\S)(.+?\S|\S)__(?!\w)|\*(?=[^\s*])(.+?[^\s*]|[^\s*])\*(?!\*)|(?<!\w)_(?=[^\s_])(.+?[^\s_]|[^\s_])_(?!\w)|~~(.+?)~~|(https?:\/\/[^\s<>"')\]]+[^\s<>"')\].,;:!?])/gs;

    function link(url, ...children) {
        const made = element("a", ...children);
        made.href = url;
        made.rel = "noopener noreferrer";
        made.target = "_blank";
        return made;
    }

    function inline(text) {
        const nodes = [];
        let at = 0;
        for (const match of text.matchAll(INLINE)) {
            if (match.index > at)
                nodes.push(text.slice(at, match.index));
            const [whole, , code, label, url, strong1, strong2, em1, em2, struck, bare] = match;
            if (code !== undefined)
                nodes.push(element("code", code.replace(/^ (.*) $/s, "$1")));
            else if (label !== undefined)
                nodes.push(link(url, ...inline(label)));
            else if (strong1 !== undefined || strong2 !== undefined)
                nodes.push(element("strong", ...inline(strong1 ?? strong2)));
            else if (em1 !== undefined || em2 !== undefined)
                nodes.push(element("em", ...inline(em1 ?? em2)));
            else if (struck !== undefined)
                nodes.push(element("s", ...inline(struck)));
            else
                nodes.push(link(bare, bare));
            at = match.index + whole.length;
        }
        if (at < text.length)
            nodes.push(text.slice(at));
        return nodes;
    }

    function lines(text) {
        const nodes = [];
        for (const [i, line] of text.split("\n").entries()) {
            if (i)
                nodes.push(element("br"));
            nodes.push(...inline(line));
        }
        return nodes;
    }

    function copyButton(text, label) {
        const copy = element("button", "Copy");
        copy.type = "button";
        copy.className = "small";
        copy.setAttribute("aria-label", label);
        copy.addEventListener("click", async () => {
            try {
                await navigator.clipboard.writeText(text);
                copy.textContent = "Copied";
            } catch {
                copy.textContent = "Not allowed";
            }
            setTimeout(() => { copy.textContent = "Copy"; }, 1500);
        });
        return copy;
    }

    function codeBlock(language, text) {
        const head = element("div", element("span", language || "code"), copyButton(text, "Copy this code"));
        head.className = "code-head";
        const pre = element("pre", element("code", text));
        pre.tabIndex = 0; /* so that the keyboard can scroll it */
        return [head, pre];
    }

    const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

    /* Items from `rows[at]` on, with deeper ones inside; returns the list and where it ended. */
    function list(rows, at) {
        const indent = ITEM.exec(rows[at])[1].length;
        const ordered = /\d/.test(ITEM.exec(rows[at])[2]);
        const made = element(ordered ? "ol" : "ul");
        if (ordered)
            made.start = parseInt(ITEM.exec(rows[at])[2], 10);
        while (at < rows.length) {
            const match = ITEM.exec(rows[at]);
            if (!match || match[1].length < indent || /\d/.test(match[2]) !== ordered)
                break;
            if (match[1].length > indent + 1) {
                const [inner, next] = list(rows, at);
                (made.lastElementChild ?? made.appendChild(element("li"))).append(inner);
                at = next;
                continue;
            }
            const item = element("li", ...inline(match[3]));
            made.append(item);
            at++;
            while (at < rows.length && rows[at].trim() && !ITEM.test(rows[at]) && /^\s{2,}/.test(rows[at])) {
                item.append(element("br"), ...inline(rows[at].trim()));
                at++;
            }
            if (at + 1 < rows.length && !rows[at].trim() && ITEM.test(rows[at + 1]))
                at++;
        }
        return [made, at];
    }

    function cells(row) {
        return row.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((c) => c.trim());
    }

    function table(rows, at) {
        const made = element("table");
        const head = element("tr", ...cells(rows[at]).map((c) => element("th", ...inline(c))));
        const body = element("tbody");
        made.append(element("thead", head), body);
        for (at += 2; at < rows.length && rows[at].includes("|"); at++)
            body.append(element("tr", ...cells(rows[at]).map((c) => element("td", ...inline(c)))));
        const scroll = element("div", made);
        scroll.className = "scroll";
        return [scroll, at];
    }

    const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
    const TABLE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)+\|?\s*$/;

    function startsBlock(rows, at) {
        return /^\s*(```|~~~|#{1,6}\s|>)/.test(rows[at]) || ITEM.test(rows[at]) || RULE.test(rows[at]) ||
            (rows[at].includes("|") && at + 1 < rows.length && TABLE.test(rows[at + 1]));
    }

    function render(text) {
        const rows = text.replace(/\r\n?/g, "\n").split("\n");
        const nodes = [];
        let at = 0;
        while (at < rows.length) {
            const row = rows[at];
            const fence = /^(\s*)(```+|~~~+)\s*([^`]*)$/.exec(row);
            const heading = /^\s*(#{1,6})\s+(.*?)\s*#*$/.exec(row);
            if (!row.trim()) {
                at++;
            } else if (fence) {
                let end = at + 1;
                while (end < rows.length && !rows[end].trim().startsWith(fence[2]))
                    end++;
                nodes.push(...codeBlock(fence[3].trim().split(/\s/)[0], rows.slice(at + 1, end).join("\n")));
                at = end + 1;
            } else if (heading) {
                /* One level down: the page's own heading is the first. */
                nodes.push(element("h" + Math.min(6, heading[1].length + 1), ...inline(heading[2])));
                at++;
            } else if (RULE.test(row)) {
                nodes.push(element("hr"));
                at++;
            } else if (/^\s*>/.test(row)) {
                let end = at;
                while (end < rows.length && /^\s*>/.test(rows[end]))
                    end++;
                const quoted = rows.slice(at, end).map((r) => r.replace(/^\s*> ?/, "")).join("\n");
                nodes.push(element("blockquote", ...render(quoted)));
                at = end;
            } else if (ITEM.test(row)) {
                const [made, next] = list(rows, at);
                nodes.push(made);
                at = next;
            } else if (row.includes("|") && at + 1 < rows.length && TABLE.test(rows[at + 1])) {
                const [made, next] = table(rows, at);
                nodes.push(made);
                at = next;
            } else {
                let end = at + 1;
                while (end < rows.length && rows[end].trim() && !startsBlock(rows, end))
                    end++;
                nodes.push(element("p", ...lines(rows.slice(at, end).join("\n"))));
                at = end;
            }
        }
        return nodes;
    }

    return { render, copyButton };
})();
