// What Amplify's own transformer makes of a schema: resolvers, functions, templates, tables, and the schema served.
// Run where it is installed: node transform.js schema.graphql made.json
const fs = require('fs');
const load = require('module').createRequire(process.cwd() + '/');
const { App, NestedStack, Stack } = load('aws-cdk-lib');
const { executeTransform } = load('@aws-amplify/graphql-transformer');
const { parse } = load('graphql');

const [, , from, into] = process.argv;
const schema = fs.readFileSync(from, 'utf8');
const models = parse(schema).definitions.filter((one) => (one.directives || []).some((mark) => mark.name.value === 'model'));
const app = new App({
  context: { '@aws-cdk/core:newStyleStackSynthesis': false, 'aws:cdk:disable-asset-staging': true },
});
const root = new Stack(app, 'root');
root.setParameter = () => {};
const templates = {};
const stacks = [];

executeTransform({
  schema,
  scope: root,
  dataSourceStrategies: Object.fromEntries(
    models.map((one) => [one.name.value, { dbType: 'DYNAMODB', provisionStrategy: 'DEFAULT' }]),
  ),
  sqlDirectiveDataSourceStrategies: [],
  transformersFactoryArgs: {},
  nestedStackProvider: {
    provide: (scope, name) => {
      stacks.push(new NestedStack(scope, name));
      return stacks[stacks.length - 1];
    },
  },
  assetProvider: {
    provide: (scope, id, asset) => {
      templates[asset.fileName] = asset.fileContent;
      const url = 's3://templates/' + asset.fileName;
      return {
        s3BucketName: 'templates', s3ObjectKey: asset.fileName, s3ObjectUrl: url, httpUrl: url, assetHash: id,
        isFile: true, bucket: undefined, grantRead() {}, addToResource() {},
      };
    },
  },
  synthParameters: { amplifyEnvironmentName: 'NONE', apiName: 'tests', userPoolId: 'us-east-1_tests', enableIamAccess: false },
  authConfig: {
    defaultAuthentication: { authenticationType: 'API_KEY', apiKeyConfig: { apiKeyExpirationDays: 7 } },
    additionalAuthenticationProviders: [
      { authenticationType: 'AMAZON_COGNITO_USER_POOLS', userPoolConfig: { userPoolId: 'us-east-1_tests' } },
    ],
  },
  transformParameters: {
    shouldDeepMergeDirectiveConfigDefaults: true,
    useSubUsernameForDefaultIdentityClaim: true,
    populateOwnerFieldForStaticGroupAuth: true,
    secondaryKeyAsGSI: true,
    enableAutoIndexQueryNames: true,
    respectPrimaryKeyAttributesOnConnectionField: true,
    enableTransformerCfnOutputs: true,
    disableResolverDeduping: false, sandboxModeEnabled: false, subscriptionsInheritPrimaryAuth: false,
    suppressApiKeyGeneration: false, enableSearchNodeToNodeEncryption: false, replaceTableUponGsiUpdate: false,
    allowDestructiveGraphqlSchemaUpdates: false, allowGen1Patterns: false, enableGen2Migration: false,
  },
  printTransformerLog: () => {},
});

// Every resource of every stack, with what its references lead to: across stacks they are parameters and outputs.
const assembly = app.synth();
const resources = {};
const opened = {};

function open(path, stack, given) {
  const template = JSON.parse(fs.readFileSync(assembly.directory + '/' + stack.templateFile));
  const resolve = (value) => {
    if (Array.isArray(value)) return value.map(resolve);
    if (value === null || typeof value !== 'object') return value;
    if (value.Ref !== undefined) {
      if (given[value.Ref]) return given[value.Ref]();
      if (template.Resources[value.Ref]) return { at: path + '/' + value.Ref };
      const parameter = (template.Parameters || {})[value.Ref] || {};
      return 'Default' in parameter ? parameter.Default : value.Ref;
    }
    if (value['Fn::GetAtt']) {
      const [name, attribute] = value['Fn::GetAtt'];
      const below = attribute.startsWith('Outputs.') && opened[path + '/' + name];
      return below ? below.output(attribute.slice('Outputs.'.length)) : { at: path + '/' + name };
    }
    if (value['Fn::Join']) {
      const [between, parts] = resolve(value['Fn::Join']);
      return Array.isArray(parts) && parts.every((one) => typeof one === 'string') ? parts.join(between) : parts;
    }
    if (value['Fn::If']) return resolve(value['Fn::If'][1]);
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, resolve(one)]));
  };
  opened[path] = { output: (name) => resolve(template.Outputs[name].Value) };
  for (const [name, resource] of Object.entries(template.Resources)) {
    const place = path + '/' + name;
    const properties = resource.Properties || {};
    if (resource.Type !== 'AWS::CloudFormation::Stack') {
      resources[place] = { type: resource.Type, properties: () => resolve(properties) };
      continue;
    }
    const nested = stacks.find((one) => one.nestedStackParent.resolve(one.nestedStackResource.logicalId) === name);
    const told = Object.entries(properties.Parameters || {});
    open(place, nested, Object.fromEntries(told.map(([key, one]) => [key, () => resolve(one)])));
  }
}
open('', root, {});

const text = (properties, side) => {
  const kept = properties[side + 'MappingTemplateS3Location'];
  const inline = properties[side + 'MappingTemplate'];
  if (kept) return templates[kept.replace('s3://templates/', '')];
  return inline === undefined ? null : [].concat(inline).join('');
};
const named = (source) => (source && source.at ? resources[source.at].properties().Name : source);
const made = { schema: null, sources: [], functions: [], resolvers: [], tables: [] };
for (const [place, { type, properties }] of Object.entries(resources)) {
  const told = properties();
  const both = { request: text(told, 'Request'), response: text(told, 'Response') };
  if (type === 'AWS::AppSync::DataSource') made.sources.push({ name: told.Name, table: !!told.DynamoDBConfig });
  if (type === 'AWS::AppSync::FunctionConfiguration') {
    made.functions.push({ place, source: named(told.DataSourceName), ...both });
  }
  if (type === 'AWS::AppSync::Resolver' && told.TypeName !== 'Subscription') {
    const functions = told.PipelineConfig ? told.PipelineConfig.Functions.map((one) => one.at) : [];
    made.resolvers.push({ type: told.TypeName, field: told.FieldName, kind: told.Kind, functions, ...both });
  }
  if (type === 'AWS::DynamoDB::Table' || type === 'Custom::AmplifyDynamoDBTable') {
    const indexes = (told.GlobalSecondaryIndexes || []).map(({ IndexName, KeySchema, Projection }) => ({ IndexName, KeySchema, Projection }));
    made.tables.push({
      KeySchema: told.KeySchema, AttributeDefinitions: told.AttributeDefinitions, TableName: [].concat(told.TableName)[0].replace(/-$/, ''),
      ...(indexes.length ? { GlobalSecondaryIndexes: indexes } : {}),
    });
  }
  if (type === 'AWS::AppSync::GraphQLSchema') {
    made.schema = told.Definition || templates[told.DefinitionS3Location.replace('s3://templates/', '')];
  }
}
fs.writeFileSync(into, JSON.stringify(made));
