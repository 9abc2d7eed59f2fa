-- What wrk sends, and what it tells in the end.
-- Arguments: what to send; the file of users (user id, account id, Authorization; one user a line); the status that
-- every answer must have; the seed.

local HOST = "Host: 127.0.0.1\r\n"
local FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
local BULK_ITEMS = 1000

local threads = {}
local users = {}
local draw = math.random

function setup(thread)
    table.insert(threads, thread)
    thread:set("number", #threads)
end

local function read_users(path)
    for line in io.lines(path) do
        local id, account, authorization = line:match("^(%d+)\t(%d+)\t(.+)$")
        table.insert(users, {id = id, account = account, authorization = "Authorization: " .. authorization .. "\r\n"})
    end
end

local function pair()
    local payer = draw(#users)
    local payee = draw(#users - 1)
    if payee >= payer then payee = payee + 1 end
    return users[payer], users[payee]
end

local function post(user, path, content_type, body)
    return "POST " .. path .. " HTTP/1.1\r\n" .. HOST .. user.authorization .. content_type ..
        "Content-Length: " .. #body .. "\r\n\r\n" .. body
end

local requests = {}

function requests.transfer()
    local payer, payee = pair()
    local body = "from=" .. payer.account .. "&to=" .. payee.account .. "&amount=0.01"
    return post(payer, "/users/" .. payer.id .. "/transfers", FORM, body)
end

function requests.account()
    local user = users[draw(#users)]
    return "GET /accounts/" .. user.account .. " HTTP/1.1\r\n" .. HOST .. user.authorization .. "\r\n"
end

-- Here the file has a transfer's id in place of the account's: the page after it.
function requests.history()
    local page = users[draw(#users)]
    return "GET /users/" .. page.id .. "/transfers?limit=100&after=" .. page.account .. " HTTP/1.1\r\n" .. HOST ..
        page.authorization .. "\r\n"
end

function requests.bulk()
    local payer = users[draw(#users)]
    local items = {}
    while #items < BULK_ITEMS do
        local payee = users[draw(#users)]
        if payee ~= payer then
            table.insert(items, '{"from":' .. payer.account .. ',"to":' .. payee.account .. ',"amount":0.01}')
        end
    end
    local body = '{"mode":"each","transfers":[' .. table.concat(items, ",") .. "]}"
    return post(payer, "/users/" .. payer.id .. "/transfers/bulk", "Content-Type: application/json\r\n", body)
end

function init(args)
    kind, expected = args[1], tonumber(args[3])
    read_users(args[2])
    math.randomseed(tonumber(args[4]) * 1000 + number)
    statuses, astray = {}, ""
    request = requests[kind]
end

local function count(text, what)
    local found, from = 0, 1
    while true do
        local first, last = text:find(what, from, true)
        if not first then return found end
        found, from = found + 1, last + 1
    end
end

function response(status, _, body)
    statuses[status] = (statuses[status] or 0) + 1
    if astray == "" then
        if status ~= expected then astray = body end
        if kind == "bulk" and count(body, '"status":"posted"') ~= BULK_ITEMS then astray = body end
    end
end

local function quoted(text)
    return '"' .. text:sub(1, 300):gsub('[%c"\\]', " ") .. '"'
end

function done(summary, latency)
    local all, first_astray = {}, ""
    for _, thread in ipairs(threads) do
        for status, number_of in pairs(thread:get("statuses")) do
            all[status] = (all[status] or 0) + number_of
        end
        if first_astray == "" then first_astray = thread:get("astray") end
    end
    local counts = {}
    for status, number_of in pairs(all) do
        table.insert(counts, string.format('"%d":%d', status, number_of))
    end
    local errors = summary.errors
    io.write("\nRESULT ", string.format(
        '{"seconds":%.6f,"requests":%d,"p50_ms":%.3f,"p99_ms":%.3f,"statuses":{%s},"lost":%d,"astray":%s}\n',
        summary.duration / 1e6, summary.requests, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
        table.concat(counts, ","), errors.connect + errors.read + errors.write + errors.timeout, quoted(first_astray)
    ))
end
