// Amplify's AppSync simulator over what transform.js made, on a DynamoDB stand-in. Run where it is installed:
// node serve.js made.json port http://127.0.0.1:dynamodb key
const fs = require('fs');
const load = require('module').createRequire(process.cwd() + '/');
const { AmplifyAppSyncSimulator } = load('@aws-amplify/amplify-appsync-simulator');
const { CreateTableCommand, DynamoDBClient } = load('@aws-sdk/client-dynamodb');

const [, , file, port, endpoint, apiKey] = process.argv;
const made = JSON.parse(fs.readFileSync(file));
const keys = { accessKeyId: 'tests', secretAccessKey: 'tests' };
const mappingTemplates = [];

function kept(path, content, otherwise) {
  mappingTemplates.push({ path, content: content === null ? otherwise : content });
  return path;
}

function templates(path, one, pass) {
  return {
    requestMappingTemplateLocation: kept(path + '.request', one.request, '{}'),
    responseMappingTemplateLocation: kept(path + '.response', one.response, pass),
  };
}

async function main() {
  const database = new DynamoDBClient({ endpoint, region: 'us-east-1', credentials: keys });
  for (const table of made.tables) {
    await database.send(new CreateTableCommand({ ...table, BillingMode: 'PAY_PER_REQUEST' }));
  }
  const config = { endpoint, region: 'us-east-1', ...keys };
  const pass = '$util.toJson($ctx.prev.result)';
  const simulator = new AmplifyAppSyncSimulator({ port: Number(port) });
  await simulator.start();
  await simulator.init({
    appSync: {
      name: 'tests',
      apiKey,
      defaultAuthenticationType: { authenticationType: 'API_KEY' },
      additionalAuthenticationProviders: [
        { authenticationType: 'AMAZON_COGNITO_USER_POOLS', cognitoUserPoolConfig: {} },
      ],
    },
    schema: { content: made.schema },
    dataSources: made.sources.map((one) =>
      one.table
        ? { type: 'AMAZON_DYNAMODB', name: one.name, config: { ...config, tableName: one.name.replace(/Table$/, '') } }
        : { type: 'NONE', name: one.name },
    ),
    functions: made.functions.map((one) => ({
      name: one.place, dataSourceName: one.source, ...templates('function' + one.place, one, pass),
    })),
    resolvers: made.resolvers.map((one) => ({
      kind: one.kind, typeName: one.type, fieldName: one.field, functions: one.functions,
      ...templates(one.type + '.' + one.field, one, pass),
    })),
    mappingTemplates,
    tables: [],
  });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
