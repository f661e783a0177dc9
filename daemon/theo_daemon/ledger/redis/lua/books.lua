-- What people read of the models that ever cost anything, at one moment: {model, balance, latency...}, false where
-- there is nothing.
local models = redis.call('HKEYS', MODELS)
local known = {}
for _, model in ipairs(models) do
    known[model] = true
end
for _, model in ipairs(redis.call('HKEYS', LATENCY)) do -- free ones
    if not known[model] then models[#models + 1] = model end
end
local found = {}
for _, model in ipairs(models) do
    found[#found + 1] = model
    found[#found + 1] = redis.call('HGET', SPEND, '0 model:' .. model)
    found[#found + 1] = redis.call('HGET', LATENCY, model)
end
return found
